"""Hyperparameters of a parameter group: their ranges, and their form in a state dict."""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from torch import Tensor

from celo2.errors import InputError
from celo2.rule import check_kappa

STATE_DTYPES = (torch.float32, torch.bfloat16, torch.float64)
"""float16 is not among them: the squares of ordinary gradients overflow it."""
NEWTON_SCHULZ_DTYPES = (torch.float32, torch.bfloat16)
NUMBERS = ("lr", "weight_decay", "adamw_lr_multiplier", "lr_multiplier", "eps", "cautious")


def checked(group: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a group whose numbers are Python's, NumPy's scalars included.

    Raises:
        InputError: a value is out of its range.
    """
    group = dict(group)
    for key in NUMBERS:
        if key in group:
            group[key] = _number(key, group[key])
    betas = group["betas"]
    if (
        not isinstance(betas, (tuple, list))
        or len(betas) != 2
        or not all(0 <= b < 1 for b in betas)
    ):
        raise InputError(f"betas are {betas}; give two, each at least 0 and below 1")
    group["betas"] = tuple(float(beta) for beta in betas)
    if group.get("cautious", 0.0) > 1:
        raise InputError(f"cautious is {group['cautious']}; it must lie between 0 and 1")
    check_kappa(group["guard"])
    for key, allowed in (
        ("state_dtype", STATE_DTYPES),
        ("newton_schulz_dtype", NEWTON_SCHULZ_DTYPES),
    ):
        if group[key] not in allowed:
            raise InputError(f"{key} is {group[key]}; use one of {', '.join(map(str, allowed))}")
    if group.get("maximize"):
        raise InputError("maximize=True is not supported; negate the loss instead")
    return group


def _number(key: str, value: Any) -> float | Tensor:
    if key == "lr" and isinstance(value, Tensor):
        if value.ndim:
            raise InputError(
                f"lr is a tensor of shape {tuple(value.shape)}; "
                "it must be a number or a tensor without axes"
            )
        if not value >= 0:
            raise InputError(f"lr is {value!r}; it must be a number that is not negative")
        return value
    if not isinstance(value, Real) or not float(value) >= 0:
        raise InputError(f"{key} is {value!r}; it must be a number that is not negative")
    return value if type(value) is int else float(value)  # NumPy's float64 is a float, too


def scaled(group: dict[str, Any]) -> tuple[float | Tensor, float]:
    """Return the learning rate and weight decay of a group, its multiplier included.

    Weight decay goes by the base learning rate: the multiplier is taken out of it again.
    """
    multiplier = group["lr_multiplier"]
    return group["lr"] * multiplier, group["weight_decay"] / multiplier if multiplier else 0.0


def with_dtype_names(group: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a group with "float32" for `torch.float32`.

    Distributed checkpoints take numbers and strings, but no dtypes.
    """
    return {
        key: str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
        for key, value in group.items()
    }


def with_dtypes(group: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a group with its dtypes in the place of their names."""
    group = dict(group)
    for key in ("state_dtype", "newton_schulz_dtype"):
        if isinstance(group.get(key), str):
            group[key] = getattr(torch, group[key])
    return group
