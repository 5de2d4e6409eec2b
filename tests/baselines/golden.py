"""The recorded cases of the authors' implementations: inputs, outputs, and the distance to them."""

import dataclasses
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import celo2

FILES = {
    name: np.load(Path(__file__).parents[1] / "golden" / f"{name}.npz")
    for name in ("celo", "celo_digits", "velo")
}
WEIGHTS = Path(celo2.__file__).parent / "baselines" / "weights"
PUBLISHED = {
    "celo_theta.safetensors": "celo.safetensors",
    "celo_adam_theta.safetensors": "celo-adam.safetensors",
}
BANK_WIDTHS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)


def under(file, prefix):
    """The arrays whose names start with `prefix`, by the rest of their names."""
    names = [name for name in FILES[file] if name.startswith(prefix)]
    return {name.removeprefix(prefix): FILES[file][name] for name in names}


@dataclasses.dataclass(frozen=True)
class Case:
    """One recorded run; `grads` are replayed, so no model is needed."""

    file: str
    name: str

    def __str__(self):
        return f"{self.file}/{self.name}"

    def __getitem__(self, key):
        return FILES[self.file][f"{self.name}/{key}"]

    def get(self, key, default):
        return self[key].item() if f"{self.name}/{key}" in FILES[self.file] else default

    def tree(self, key):
        return under(self.file, f"{self.name}/{key}/")

    @property
    def num_steps(self):
        return int(self["num_steps"])

    @property
    def losses(self):
        return self["losses"]

    @property
    def theta(self):
        which = str(self["theta"])
        if which == "small":
            return under(self.file, "theta/small/")
        if which == "formula":
            inputs = 30 if self.file == "velo" else 18
            return formula_theta(inputs, int(self["hidden"]), int(self["bank"]))
        return load_file(WEIGHTS / PUBLISHED[which])

    def grads(self, t):
        return {name: g[t] for name, g in self.tree("grads").items()}

    def distances(self, updates):
        """The relative RMS distance of `updates[t][tensor]` to the record, per step and tensor."""
        found = []
        for name, expected in self.tree("updates").items():
            for t, exact in enumerate(expected):
                difference = np.asarray(updates[t][name], np.float64) - exact
                found.append(np.sqrt(np.mean(difference**2) / np.mean(exact**2)))
        return np.array(found)


def cases(file):
    """All cases of a file, in order."""
    names = {
        name.split("/")[0] for name in FILES[file] if not name.startswith(("theta/", "curve/"))
    }
    return [Case(file, name) for name in sorted(names)]


def shapes(inputs, hidden, bank):
    """Names and shapes of the authors' meta-parameters."""
    mlp = {f"w0__{i}": (bank, k, 4) for i, k in enumerate(BANK_WIDTHS)}
    mlp |= {
        "b0": (bank, 4),
        "w1": (bank, 4, 4),
        "b1": (bank, 4),
        "w2": (bank, 4, 3),
        "b2": (bank, 3),
    }
    layers = {
        "linear": (inputs, hidden),
        "linear_1": (inputs, hidden),
        "linear_2": (inputs, hidden),
    }
    layers |= {
        "rnn/linear": (2 * hidden, 4 * hidden),
        "rnn_to_controls": (hidden, bank),
        "step_size": (hidden, 1),
    }
    found = {f"ff_mod_stack/~/{name}": shape for name, shape in mlp.items()}
    found |= {"lstm_init_state/hidden": (1, hidden), "lstm_init_state/cell": (1, hidden)}
    for name, shape in layers.items():
        found |= {f"rnn_params/{name}/w": shape, f"rnn_params/{name}/b": shape[1:]}
    return found


def formula_theta(inputs, hidden, bank):
    """Weights of the published size from an integer hash, so that they need not be stored."""
    theta = {}
    for i, (name, shape) in enumerate(sorted(shapes(inputs, hidden, bank).items())):
        j = np.arange(np.prod(shape), dtype=np.uint32)
        x = np.uint32(2654435761) * (j + np.uint32(1)) + np.uint32(340573321 * (i + 1) % 2**32)
        x ^= x >> np.uint32(15)
        x *= np.uint32(2246822519)
        x ^= x >> np.uint32(13)
        matrix = name.endswith("/w") and not name.startswith("ff_mod_stack")
        scale = 2 / np.sqrt(shape[0]) if matrix else 0.5
        values = scale * (2 * x.astype(np.float64) / 2**32 - 1)
        theta[name] = values.astype(np.float32).reshape(shape)
    theta["rnn_params/step_size/b"] += np.float32(4)
    return theta
