"""The learned numbers of Celo and VeLO: their shapes, and their names in the authors' checkpoints.

The checkpoints hold arrays that do not affect the update (`rnn_params/linear`, and
`rnn_params/rnn_to_controls` of Celo); they are checked and left out, and written as zeros.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors.numpy import save

from celo2 import files
from celo2.baselines.checkpoint import read_checkpoint
from celo2.errors import InputError

Array = Any

CHANNELS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)
"""Channels of each of the fourteen features that the MLP reads (`network.features`), 30 in all."""
WIDTH, OUTPUTS = 4, 3
CELO_INPUTS, VELO_INPUTS = 18, 30
SHIPPED = ("celo", "celo-adam", "celo-small")
SHIPPED_VELO = ("velo-small",)


class Mlp(NamedTuple):
    """The MLP that proposes a step for each entry of a tensor; VeLO's bank has a leading axis."""

    w0: Array  # (..., 30, 4); rows in the order of the features
    b0: Array
    w1: Array  # (..., 4, 4)
    b1: Array
    w2: Array  # (..., 4, 3); output 2 is not used
    b2: Array


class Linear(NamedTuple):
    """A linear layer: x @ w + b."""

    w: Array
    b: Array


class Recurrent(NamedTuple):
    """The LSTM over rows of features (one row for Celo, one per tensor for VeLO), H wide."""

    own: Linear  # features -> H: what a row contributes to its own input
    pooled: Linear  # features -> H: what all rows contribute, by their maximum
    gates: Linear  # 2 H -> 4 H
    hidden: Array  # (1, H), the first hidden state
    cell: Array  # (1, H), the first cell state
    step_size: Linear  # H -> 1


class CeloWeights(NamedTuple):
    """The learned numbers of Celo; of Celo-Adam, which takes Adam's direction, if `mlp` is None."""

    mlp: Mlp | None
    scheduler: Recurrent


class VeloWeights(NamedTuple):
    """The learned numbers of VeLO."""

    bank: Mlp
    recurrent: Recurrent
    control: Linear  # H -> number of MLPs in the bank


def random_celo(seed: int, width: int, mlp: bool = True) -> CeloWeights:
    """Draw Celo's learned numbers as its authors' meta-training starts.

    Weights are truncated normal with standard deviation 1/sqrt(fan_in), biases and the first state
    of the LSTM, `width` wide, are 0. Without an MLP they are Celo-Adam's.
    """
    return _celo(_drawn(seed, _shapes(CELO_INPUTS, width, 1 if mlp else None)))


def random_velo(seed: int, width: int, mlps: int) -> VeloWeights:
    """Draw VeLO's learned numbers, with a bank of so many MLPs, as `random_celo` draws Celo's."""
    return _velo(_drawn(seed, _shapes(VELO_INPUTS, width, mlps)))


def weights_hash(weights: CeloWeights | VeloWeights) -> str:
    """Return the start of a hash of all learned numbers."""
    content = b"".join(np.asarray(leaf, "<f4").tobytes() for leaf in jax.tree.leaves(weights))
    return hashlib.sha256(content).hexdigest()[:16]


def save_weights(
    path: str | os.PathLike[str],
    weights: CeloWeights | VeloWeights,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write learned numbers to a safetensors file, under the names of the authors' checkpoints.

    The file is replaced at once, never half-written; `provenance` stands in its header as JSON.
    """
    metadata = {"provenance": json.dumps(dict(provenance or {}), sort_keys=True)}
    files.write(path, save(arrays_of(weights), metadata))


def load_celo(source: str | os.PathLike[str]) -> CeloWeights:
    """Load Celo's or Celo-Adam's learned numbers by name or path.

    Names are "celo" and "celo-adam", the published ones, and "celo-small", meta-trained here.

    Raises:
        InputError: no such name or file, or the file does not hold the arrays of Celo.
    """
    path = _path(source, SHIPPED)
    arrays = read_checkpoint(path)
    mlp = any(name.startswith("ff_mod_stack") for name in arrays)
    _check(arrays, path, CELO_INPUTS, mlp=mlp)
    bank = len(arrays["ff_mod_stack/~/b0"]) if mlp else 1
    if bank != 1:
        raise InputError(
            f"{path} has a bank of {bank} MLPs, Celo has one; is it a checkpoint of VeLO?"
        )
    return _celo(arrays)


def load_velo(path: str | os.PathLike[str]) -> VeloWeights:
    """Load VeLO's learned numbers by name or path.

    `path` may be the name "velo-small", meta-trained here; else it is that of the authors'
    checkpoint, of its conversion to safetensors, or of one of your own.

    Raises:
        InputError: no such name or file, or the file does not hold the arrays of VeLO.
    """
    path = _path(path, SHIPPED_VELO)
    arrays = read_checkpoint(path)
    _check(arrays, path, VELO_INPUTS, mlp=True)
    return _velo(arrays)


def arrays_of(weights: CeloWeights | VeloWeights) -> dict[str, np.ndarray]:
    """Return learned numbers under their names in the authors' checkpoints, float32."""
    recurrent = weights.scheduler if isinstance(weights, CeloWeights) else weights.recurrent
    arrays: dict[str, Any] = {
        "lstm_init_state/hidden": recurrent.hidden,
        "lstm_init_state/cell": recurrent.cell,
    }
    layers = {
        "linear": Linear(*(np.zeros_like(array) for array in recurrent.own)),
        "linear_1": recurrent.pooled,
        "linear_2": recurrent.own,
        "rnn/linear": recurrent.gates,
        "step_size": recurrent.step_size,
    }
    if isinstance(weights, VeloWeights):
        bank, layers["rnn_to_controls"] = weights.bank, weights.control
    elif weights.mlp is not None:
        width = recurrent.hidden.shape[1]
        bank = Mlp(*(np.asarray(array)[None] for array in weights.mlp))
        layers["rnn_to_controls"] = Linear(np.zeros((width, 1)), np.zeros(1))
    else:
        bank = None
    if bank is not None:
        starts = np.cumsum(CHANNELS)[:-1]
        pieces = np.split(np.asarray(bank.w0), starts, axis=1)
        arrays |= {f"ff_mod_stack/~/w0__{i}": piece for i, piece in enumerate(pieces)}
        for name in Mlp._fields[1:]:
            arrays[f"ff_mod_stack/~/{name}"] = getattr(bank, name)
    for name, layer in layers.items():
        arrays |= {f"rnn_params/{name}/w": layer.w, f"rnn_params/{name}/b": layer.b}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


def _path(source: str | os.PathLike[str], shipped: tuple[str, ...]) -> Path:
    """Return the file of a name of the package, or of a path."""
    if str(source) in shipped:
        weights = importlib.resources.files("celo2.baselines") / "weights"
        return Path(str(weights / f"{source}.safetensors"))
    if not Path(source).is_file():
        raise InputError(
            f"{str(source)!r} is neither a file nor one of {', '.join(shipped)}; pass one of these"
        )
    return Path(source)


def _drawn(seed: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Draw the arrays of a network; those that are not weights of a layer are zero."""
    from scipy.stats import truncnorm  # a second, which users of published weights need not wait

    generator = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        array = np.zeros(shape, np.float32)
        *_, last = name.split("/")
        if last.startswith("w"):
            fan_in = sum(CHANNELS) if last.startswith("w0") else shape[-2]
            drawn = truncnorm.rvs(-2, 2, size=shape, random_state=generator)
            array = (drawn / np.sqrt(fan_in)).astype(np.float32)
        arrays[name] = array
    return arrays


def _celo(arrays: Mapping[str, np.ndarray]) -> CeloWeights:
    if "ff_mod_stack/~/b0" not in arrays:
        return CeloWeights(None, _recurrent(arrays))
    return CeloWeights(Mlp(*(array[0] for array in _mlp(arrays))), _recurrent(arrays))


def _velo(arrays: Mapping[str, np.ndarray]) -> VeloWeights:
    return VeloWeights(_mlp(arrays), _recurrent(arrays), _linear(arrays, "rnn_to_controls"))


def _mlp(arrays: Mapping[str, np.ndarray]) -> Mlp:
    """Stack the fourteen pieces of the first layer."""
    w0 = np.concatenate([arrays[f"ff_mod_stack/~/w0__{i}"] for i in range(len(CHANNELS))], axis=1)
    return Mlp(w0, *(arrays[f"ff_mod_stack/~/{name}"] for name in Mlp._fields[1:]))


def _recurrent(arrays: Mapping[str, np.ndarray]) -> Recurrent:
    return Recurrent(
        own=_linear(arrays, "linear_2"),
        pooled=_linear(arrays, "linear_1"),
        gates=_linear(arrays, "rnn/linear"),
        hidden=arrays["lstm_init_state/hidden"],
        cell=arrays["lstm_init_state/cell"],
        step_size=_linear(arrays, "step_size"),
    )


def _linear(arrays: Mapping[str, np.ndarray], name: str) -> Linear:
    return Linear(arrays[f"rnn_params/{name}/w"], arrays[f"rnn_params/{name}/b"])


def _check(
    arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str], inputs: int, mlp: bool
) -> None:
    """Raise unless these are the arrays of one network, of any hidden size and bank."""
    sized = ["lstm_init_state/hidden", "ff_mod_stack/~/b0"] if mlp else ["lstm_init_state/hidden"]
    for name in sized:
        if name not in arrays or arrays[name].ndim != 2:
            raise InputError(
                f"{path} has no array {name!r} of two axes; pass a checkpoint of this optimizer"
            )
    hidden = arrays["lstm_init_state/hidden"].shape[1]
    bank = arrays["ff_mod_stack/~/b0"].shape[0] if mlp else None
    expected = _shapes(inputs, hidden, bank)
    odd = sorted(expected.keys() ^ arrays.keys())
    if odd:
        raise InputError(
            f"{path} is not of this optimizer; missing or unknown arrays: {', '.join(odd)}"
        )
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise InputError(
                f"{name!r} in {path} has shape {arrays[name].shape}, this optimizer needs {shape}"
            )
        if arrays[name].dtype.kind != "f" or not np.isfinite(arrays[name]).all():
            raise InputError(
                f"{name!r} in {path} holds something other than finite floats; do not use this file"
            )


def _shapes(inputs: int, hidden: int, bank: int | None) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the authors' checkpoints; `bank` is None where there is no MLP."""
    layers = {
        "linear": (inputs, hidden),
        "linear_1": (inputs, hidden),
        "linear_2": (inputs, hidden),
    }
    layers |= {"rnn/linear": (2 * hidden, 4 * hidden), "step_size": (hidden, 1)}
    shapes = {"lstm_init_state/hidden": (1, hidden), "lstm_init_state/cell": (1, hidden)}
    if bank is not None:
        layers["rnn_to_controls"] = (hidden, bank)
        mlp = {f"w0__{i}": (bank, channels, WIDTH) for i, channels in enumerate(CHANNELS)}
        mlp |= {"b0": (bank, WIDTH), "w1": (bank, WIDTH, WIDTH), "b1": (bank, WIDTH)}
        mlp |= {"w2": (bank, WIDTH, OUTPUTS), "b2": (bank, OUTPUTS)}
        shapes |= {f"ff_mod_stack/~/{name}": shape for name, shape in mlp.items()}
    for name, shape in layers.items():
        shapes |= {f"rnn_params/{name}/w": shape, f"rnn_params/{name}/b": shape[1:]}
    return shapes
