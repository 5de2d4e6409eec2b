"""AdamW of PyTorch itself for one tensor, made to skip a gradient that is not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw


def init(p: Tensor) -> dict[str, Tensor]:
    """Fresh moments, in float32 for parameters of less precision; the count of steps is kept beside them."""
    dtype = torch.promote_types(p.dtype, torch.float32)
    return {
        "exp_avg": torch.zeros_like(p, dtype=dtype, memory_format=torch.contiguous_format),
        "exp_avg_sq": torch.zeros_like(p, dtype=dtype, memory_format=torch.contiguous_format),
    }


def step_(p: Tensor, g: Tensor, state: dict[str, Tensor], finite: Tensor, group: dict[str, Any]) -> None:
    """One update of `p`, in place; nothing changes where `finite` (0-d bool) is false.

    The fused kernel is the one of torch's that can be told, on the device, to skip a step. It goes through memory without
    regard to strides, so everything it is given is contiguous.
    """
    wide = p.to(state["exp_avg"].dtype).contiguous()
    adamw(
        [wide],
        [g.to(wide.dtype).contiguous()],
        [state["exp_avg"]],
        [state["exp_avg_sq"]],
        [],
        [state["step"]],
        fused=True,
        found_inf=(~finite).to(torch.float32),
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
    if wide is not p:
        p.copy_(wide)
