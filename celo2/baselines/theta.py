"""The learned numbers of Celo and VeLO: their shapes, and their names in the authors' checkpoints.

The checkpoints hold three arrays that do not affect the update (`rnn_params/linear`, and
`rnn_params/rnn_to_controls` of Celo); they are checked and left out.
"""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from celo2.baselines.checkpoint import read_checkpoint
from celo2.errors import InputError

Array = Any

CHANNELS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)
"""Channels of each of the fourteen features that the MLP reads (`network.features`), 30 in all."""
WIDTH, OUTPUTS = 4, 3
CELO_INPUTS, VELO_INPUTS = 18, 30
SHIPPED = ("celo", "celo-adam")


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


def load_celo(source: str | os.PathLike[str]) -> CeloWeights:
    """Load Celo's or Celo-Adam's learned numbers: "celo", "celo-adam" (published), or a path.

    Raises:
        InputError: no such name or file, or the file does not hold the arrays of Celo.
    """
    path = Path(source)
    if str(source) in SHIPPED:
        path = Path(
            str(importlib.resources.files("celo2.baselines") / "weights" / f"{source}.safetensors")
        )
    elif not path.is_file():
        raise InputError(
            f"{str(source)!r} is neither a file nor one of {', '.join(SHIPPED)}; pass one of these"
        )
    arrays = read_checkpoint(path)
    mlp = any(name.startswith("ff_mod_stack") for name in arrays)
    _check(arrays, path, CELO_INPUTS, mlp=mlp)
    if not mlp:
        return CeloWeights(None, _recurrent(arrays))
    bank = _mlp(arrays)
    if len(bank.b0) != 1:
        raise InputError(
            f"{path} has a bank of {len(bank.b0)} MLPs, Celo has one; is it a checkpoint of VeLO?"
        )
    return CeloWeights(Mlp(*(array[0] for array in bank)), _recurrent(arrays))


def load_velo(path: str | os.PathLike[str]) -> VeloWeights:
    """Load VeLO's learned numbers from the authors' checkpoint or its conversion to safetensors.

    Raises:
        InputError: no such file, or the file does not hold the arrays of VeLO.
    """
    arrays = read_checkpoint(path)
    _check(arrays, path, VELO_INPUTS, mlp=True)
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
