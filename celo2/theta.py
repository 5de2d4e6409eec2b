"""Theta, the learned numbers of a rule: their identity and their files. Needs NumPy only."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from celo2 import files
from celo2.errors import InputError
from celo2.policy import Policy
from celo2.rule import Spec, Weights, shapes

FORMAT = "celo2-theta-2"
REFERENCE_W0 = tuple(f"w0__{i}" for i in range(14))
"""The authors keep one array per row of the table of features; stacked in order they are w0."""


@dataclasses.dataclass(frozen=True, eq=False)
class Theta:
    """The learned numbers of a rule, the constants they were learned with, and their provenance.

    Attributes:
        weights: six float32 NumPy arrays; `w0` (channels, hidden), `w1` (hidden, hidden), `w2`
            (hidden, 3) and their biases.
        spec: the constants of the rule.
        name: what the optimizer's checkpoints and tables call it.
        provenance: recipe, data, seed, commit and minutes, as recorded by meta-training; empty
            where nothing is known.
        policy: learning rates by the length of a run, for `total_steps=`; None where theta has
            none. It is no part of the theta's identity, which is that of the rule.

    Raises:
        InputError: an array has the wrong shape, does not hold floats, or holds a number that is
            not finite in float32.
    """

    weights: Weights
    spec: Spec = Spec()
    name: str = "unnamed"
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    policy: Policy | None = None

    def __post_init__(self) -> None:
        arrays = {}
        for field, shape in shapes(self.spec).items():
            arrays[field] = self._checked(field, shape)
        object.__setattr__(self, "weights", Weights(**arrays))

    def _checked(self, field: str, shape: tuple[int, ...]) -> np.ndarray:
        array = np.asarray(getattr(self.weights, field))
        if array.shape != shape:
            raise InputError(
                f"{field} of theta {self.name!r} has shape {array.shape}, the rule needs {shape}"
            )
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):
                single = np.array(array, np.float32)
            if np.isfinite(single).all():
                return single
        raise InputError(
            f"{field} of theta {self.name!r} holds something other than finite floats; "
            "do not use this theta"
        )

    @property
    def sha256(self) -> str:
        """Hash of the spec and of all numbers: two thetas are one rule if these agree."""
        changes = json.dumps(self.spec.changes(), sort_keys=True)
        digest = hashlib.sha256(changes.encode())
        for array in self.weights:
            digest.update(np.ascontiguousarray(array, "<f4").tobytes())
        return digest.hexdigest()

    @property
    def identity(self) -> str:
        """Name and the start of the hash, as optimizer checkpoints store it."""
        return f"{self.name}@{self.sha256[:16]}"

    @classmethod
    def from_reference(
        cls, mapping: Mapping[str, Any], spec: Spec = Spec(), name: str = "reference"
    ) -> Theta:
        """Return a theta from the nineteen arrays of the authors' code.

        They are w0__0 .. w0__13, b0, w1, b1, w2, b2.

        Raises:
            InputError: an array is absent, is not one of the nineteen, or does not fit.
        """
        wanted = {*REFERENCE_W0, "b0", "w1", "b1", "w2", "b2"}
        if wanted != set(mapping):
            odd = sorted(wanted.symmetric_difference(mapping))
            raise InputError(
                f"the authors' theta has nineteen arrays; missing or unknown here: {odd}"
            )
        rows = [np.asarray(mapping[key]) for key in REFERENCE_W0]
        if any(row.ndim != 2 or row.shape[1] != spec.hidden for row in rows):
            raise InputError(
                f"w0__0 .. w0__13 have shapes {[row.shape for row in rows]}; "
                f"each must be (channels, {spec.hidden})"
            )
        rest = [np.asarray(mapping[key]) for key in ("b0", "w1", "b1", "w2", "b2")]
        return cls(Weights(np.concatenate(rows), *rest), spec, name)

    @classmethod
    def random(cls, seed: int, spec: Spec = Spec(), name: str = "random") -> Theta:
        """Return a theta as meta-training starts in the paper.

        Weights are truncated normal with standard deviation 1/sqrt(fan_in), biases 0.
        """
        generator = np.random.default_rng(seed)
        arrays = {field: _drawn(generator, shape) for field, shape in shapes(spec).items()}
        return cls(Weights(**arrays), spec, name)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file of six arrays, and all else of theta in its header.

        The file is replaced at once, never half-written.
        """
        metadata = {
            "format": FORMAT,
            "name": self.name,
            "spec": self.spec.to_json(),
            "provenance": json.dumps(dict(self.provenance), sort_keys=True),
        }
        if self.policy is not None:
            metadata["policy"] = self.policy.to_json()
        metadata["checksum"] = _checksum(metadata, self.weights)
        files.write(path, save(self.weights._asdict(), metadata))

    def required_policy(self) -> Policy:
        """Return the policy of this theta.

        Raises:
            InputError: theta has none.
        """
        if self.policy is None:
            raise InputError(
                f"theta {self.name!r} has no policy, which total_steps= needs; "
                "give a learning rate, or a theta that has one"
            )
        return self.policy


def load_theta(source: str | os.PathLike[str]) -> Theta:
    """Load a theta that ships with the package by its name (see `shipped`), or a file by its path.

    No network is used.

    Raises:
        InputError: there is no such name or file, or the file is not a complete, unaltered theta.
    """
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"theta is {source!r}; give a name, a path or a Theta")
    text = os.fspath(source)
    if text in shipped():
        weights = importlib.resources.files("celo2") / "weights"
        return _read(Path(str(weights / f"{text}.safetensors")))
    if not _is_file(text):
        known = ", ".join(shipped())
        raise InputError(f"unknown theta {text[:200]!r}: neither a file nor one of {known}")
    return _read(Path(text))


def shipped() -> list[str]:
    """Return the names of the thetas inside the package."""
    names = (entry.name for entry in (importlib.resources.files("celo2") / "weights").iterdir())
    return sorted(
        name.removesuffix(".safetensors") for name in names if name.endswith(".safetensors")
    )


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a name longer than the file system takes, or with a null byte
        return False


def _read(path: Path) -> Theta:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            if metadata.get("format") != FORMAT or set(names) != set(Weights._fields):
                raise InputError(
                    f"{path} is a safetensors file but not a theta of format {FORMAT}; "
                    "pass a file written by Theta.save"
                )
            arrays = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a complete safetensors file ({error}); get it again"
        ) from error
    except TypeError as error:  # NumPy has no bfloat16
        raise InputError(f"{path} does not hold float32 arrays ({error}); get it again") from error
    checksum = metadata.pop("checksum", None)
    if checksum != _checksum(metadata, Weights(**arrays)):
        raise InputError(
            f"{path} was altered: its content does not have the checksum in its header; "
            "get it again"
        )
    try:
        provenance = json.loads(metadata["provenance"])
        spec, name = Spec.from_json(metadata["spec"]), metadata["name"]
    except (KeyError, json.JSONDecodeError) as error:
        raise InputError(
            f"the header of {path} lacks a name, a spec or a provenance ({error!r}); "
            "pass a file written by Theta.save"
        ) from error
    policy = Policy.from_json(metadata["policy"]) if "policy" in metadata else None
    return Theta(Weights(**arrays), spec, name, provenance, policy)


def _checksum(metadata: Mapping[str, str], weights: Weights) -> str:
    """Return the hash of everything that a theta file holds."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for array in weights:
        digest.update(array.tobytes())
    return digest.hexdigest()


def _drawn(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    x = generator.standard_normal(shape)
    while (outside := np.abs(x) > 2).any():
        x[outside] = generator.standard_normal(int(outside.sum()))
    return (x / np.sqrt(shape[0])).astype(np.float32)
