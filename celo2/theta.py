"""Theta, the learned numbers of a rule: shapes, identity, files. NumPy only; a front end makes its own arrays of them."""

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

from celo2.errors import InputError
from celo2.rule import Weights
from celo2.rule.spec import Spec

CHANNELS, OUTPUTS = 30, 3
FORMAT = "celo2-theta-1"
REFERENCE_W0 = tuple(f"w0__{i}" for i in range(14))
"""The reference keeps one array a row of its table of features; stacked in order they are w0."""


@dataclasses.dataclass(frozen=True, eq=False)
class Theta:
    """The learned numbers of a rule, the constants they were learned with, and where they come from.

    Attributes:
        weights: six float32 NumPy arrays; `w0` (30, hidden), `w1` (hidden, hidden), `w2` (hidden, 3) and their biases.
        spec: the constants of the rule.
        name: what the optimizer's checkpoints and tables call it.
        provenance: recipe, data, seed, commit, minutes, as recorded by meta-training; empty where nothing is known.

    Raises:
        InputError: an array has the wrong shape, is not of floats, or holds a number that is not finite.
    """

    weights: Weights
    spec: Spec = Spec()
    name: str = "unnamed"
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for field, shape in _shapes(self.spec).items():
            array = np.asarray(getattr(self.weights, field))
            if array.shape != shape:
                raise InputError(f"{field} of theta {self.name!r} has shape {array.shape}, the rule needs {shape}")
            if array.dtype.kind != "f" or not np.isfinite(array).all():
                raise InputError(
                    f"{field} of theta {self.name!r} holds something other than finite floats; do not use this theta"
                )
        arrays = (np.array(array, np.float32) for array in self.weights)
        object.__setattr__(self, "weights", Weights(*arrays))

    @property
    def sha256(self) -> str:
        """Hash of the spec and of all numbers: two thetas are one rule exactly if these agree."""
        digest = hashlib.sha256(self.spec.to_json().encode())
        for array in self.weights:
            digest.update(np.ascontiguousarray(array, "<f4").tobytes())
        return digest.hexdigest()

    @property
    def identity(self) -> str:
        """Name and the start of the hash, as optimizer checkpoints carry it."""
        return f"{self.name}@{self.sha256[:16]}"

    @classmethod
    def from_reference(cls, mapping: Mapping[str, Any], spec: Spec = Spec(), name: str = "reference") -> Theta:
        """Theta from the nineteen arrays of the public JAX reference: w0__0 .. w0__13, b0, w1, b1, w2, b2.

        Raises:
            InputError: an array is absent, is not one of the nineteen, or does not fit.
        """
        wanted = {*REFERENCE_W0, "b0", "w1", "b1", "w2", "b2"}
        if wanted != set(mapping):
            odd = sorted(wanted.symmetric_difference(mapping))
            raise InputError(f"the reference's theta has nineteen arrays; missing or unknown here: {odd}")
        rows = [np.asarray(mapping[key]) for key in REFERENCE_W0]
        if any(row.ndim != 2 or row.shape[1] != spec.hidden for row in rows):
            raise InputError(
                f"w0__0 .. w0__13 have shapes {[row.shape for row in rows]}; each must be (channels, {spec.hidden})"
            )
        rest = (np.asarray(mapping[key]) for key in ("b0", "w1", "b1", "w2", "b2"))
        return cls(Weights(np.concatenate(rows), *rest), spec, name)

    @classmethod
    def random(cls, seed: int, spec: Spec = Spec(), name: str = "random") -> Theta:
        """Theta as meta-training starts: truncated normal of deviation 1/sqrt(fan_in), biases 0 (as published)."""
        generator = np.random.default_rng(seed)

        def draw(shape: tuple[int, ...]) -> np.ndarray:
            if len(shape) == 1:
                return np.zeros(shape, np.float32)
            x = generator.standard_normal(shape)
            while (outside := np.abs(x) > 2).any():
                x[outside] = generator.standard_normal(int(outside.sum()))
            return (x / np.sqrt(shape[0])).astype(np.float32)

        return cls(Weights(**{field: draw(shape) for field, shape in _shapes(spec).items()}), spec, name)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: six arrays; spec, provenance, name and hash in its header. Replaces `path` at once."""
        metadata = {
            "format": FORMAT,
            "name": self.name,
            "spec": self.spec.to_json(),
            "provenance": json.dumps(dict(self.provenance), sort_keys=True),
        }
        metadata["checksum"] = _checksum(metadata, self.weights)
        path = Path(path)
        temporary = path.with_name(path.name + ".part")
        temporary.write_bytes(save(self.weights._asdict(), metadata))
        os.replace(temporary, path)


def load_theta(source: str | os.PathLike[str]) -> Theta:
    """Theta by the name of one that ships with the package (see `shipped`), or by the path of a file. No network.

    Raises:
        InputError: no such name or file, or the file is not a whole and unaltered theta.
    """
    text = os.fspath(source)
    if text in shipped():
        return _read(Path(str(importlib.resources.files("celo2") / "weights" / f"{text}.safetensors")))
    path = Path(text)
    if not path.is_file():
        raise InputError(f"unknown theta {text!r}: neither a file nor one of {', '.join(shipped())}")
    return _read(path)


def shipped() -> list[str]:
    """Names of the thetas inside the package."""
    names = (entry.name for entry in (importlib.resources.files("celo2") / "weights").iterdir())
    return sorted(name.removesuffix(".safetensors") for name in names if name.endswith(".safetensors"))


def _read(path: Path) -> Theta:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (a safetensors file is no mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({error}); take it from its source again") from error
    if metadata.get("format") != FORMAT or set(arrays) != set(Weights._fields):
        raise InputError(f"{path} is a safetensors file but not a theta of format {FORMAT}; pass a file written by Theta.save")
    checksum = metadata.pop("checksum", None)
    if checksum != _checksum(metadata, Weights(**arrays)):
        raise InputError(
            f"{path} was altered: its content does not have the checksum in its header; take it from its source again"
        )
    spec = Spec.from_json(metadata["spec"])
    return Theta(Weights(**arrays), spec, metadata["name"], json.loads(metadata["provenance"]))


def _checksum(metadata: Mapping[str, str], weights: Weights) -> str:
    """Hash of all that a theta file holds."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for array in weights:
        digest.update(array.tobytes())
    return digest.hexdigest()


def _shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    h = spec.hidden
    return {"w0": (CHANNELS, h), "b0": (h,), "w1": (h, h), "b1": (h,), "w2": (h, OUTPUTS), "b2": (OUTPUTS,)}
