"""The optimizers that the demo compares, as a table: how each is built, and the rates it is swept over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from celo2.parameters.routing import CELO2
from celo2.torch import Celo2
from celo2.torch.module_routing import route_module

ADAMW_RATE = 1e-2
"""Of embeddings, norms and head under Muon, which leaves them to AdamW."""
BETAS = (0.9, 0.95)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One optimizer of the comparison."""

    build: Callable[[nn.Module, float, str], list[Optimizer]]
    """(model, learning rate, name or path of theta) -> the optimizers that together train all of it."""
    rates: tuple[float, ...]
    """The sweep."""
    best: float
    """Of these, by mean held-out loss over three seeds of the default run; celo2-bf16 has that of celo2."""


def _adamw(model: nn.Module, lr: float, theta: str) -> list[Optimizer]:
    return [AdamW(model.parameters(), lr, betas=BETAS, weight_decay=0.0)]


def _muon(momentum: float, model: nn.Module, lr: float, theta: str) -> list[Optimizer]:
    routed = route_module(model, ends_model=True)
    hidden = [p for _, p, route in routed if route.rule == CELO2]
    rest = [p for _, p, route in routed if route.rule != CELO2]
    muon = Muon(hidden, lr, weight_decay=0.0, momentum=momentum, nesterov=True)
    return [muon, AdamW(rest, ADAMW_RATE, betas=BETAS, weight_decay=0.0)]


def _celo2(state_dtype: torch.dtype, model: nn.Module, lr: float, theta: str) -> list[Optimizer]:
    return [Celo2(model, lr, theta=theta, state_dtype=state_dtype)]


TABLE = {
    "celo2": Entry(partial(_celo2, torch.float32), (5e-4, 1e-3, 2e-3, 4e-3, 8e-3), 4e-3),
    "adamw": Entry(_adamw, (5e-4, 1e-3, 2e-3, 4e-3, 8e-3), 1e-3),
    "muon-0.95": Entry(partial(_muon, 0.95), (5e-3, 1e-2, 2e-2, 4e-2, 8e-2), 4e-2),
    "muon-0.9": Entry(partial(_muon, 0.9), (5e-3, 1e-2, 2e-2, 4e-2, 8e-2), 4e-2),
    "celo2-bf16": Entry(partial(_celo2, torch.bfloat16), (5e-4, 1e-3, 2e-3, 4e-3, 8e-3), 4e-3),
}


def schedule(optimizer: Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up over 5 % of the steps, then a cosine to zero: the same for all."""
    warmup = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = torch.tensor((step - warmup) / max(1, steps - warmup))
        return float(0.5 * (1 + torch.cos(torch.pi * progress)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
