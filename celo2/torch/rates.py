"""The numbers of one step: rates and weight decays as 0-d tensors, made once for all parameters of a group."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from celo2.torch.step import Move


class Rates:
    """Rate and weight decay as 0-d tensors, by group, device and dtype; made anew for each step."""

    def __init__(self) -> None:
        self._made: dict[Any, tuple[Tensor, Tensor]] = {}

    def move(self, p: Tensor, state: dict[str, Tensor], finite: Tensor, group: dict[str, Any]) -> Move:
        """Count a step of a parameter, unless its gradient is not `finite` (0-d), and say how it is to be done."""
        state["step"] += finite
        return Move(finite, state["step"], *self._of(group, p.device, torch.promote_types(p.dtype, torch.float32)))

    def _of(self, group: dict[str, Any], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        key = id(group), device, dtype
        if key not in self._made:
            lr, weight_decay = scaled(group)
            self._made[key] = (_number(lr, device, dtype), _number(weight_decay, device, dtype))
        return self._made[key]


def scaled(group: dict[str, Any]) -> tuple[float | Tensor, float]:
    """Return the learning rate and weight decay of a group, its multiplier included.

    Weight decay goes by the base learning rate: the multiplier is taken out of it again.
    """
    multiplier = group["lr_multiplier"]
    return group["lr"] * multiplier, group["weight_decay"] / multiplier if multiplier else 0.0


def _number(x: float | Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A number is filled in and not copied over, which no device would wait for and a CUDA graph may record."""
    return x.to(device, dtype) if isinstance(x, Tensor) else torch.full((), x, dtype=dtype, device=device)
