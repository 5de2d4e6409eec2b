"""The optimizers that the demo compares, as a table: how each is built, and its learning rates."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from celo2.errors import InputError
from celo2.evaluate.torch_demo.muon import Float32Muon
from celo2.parameters.routing import CELO2
from celo2.torch import Celo2
from celo2.torch.module_routing import route_module

ADAMW_LEARNING_RATE = 1e-2
"""Of embeddings, norms and head under Muon, which leaves them to AdamW."""
BETAS = (0.9, 0.95)
RECORDED = Path(__file__).with_name("learning_rates.json")
"""The best learning rate of each optimizer in records/demo/sweep; written by `celo2 report`."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What an optimizer is built with."""

    learning_rate: float
    theta: str = "celo2"
    """Name or path of a theta; only Celo2 reads it."""
    muon_dtype: str = "bfloat16"
    """Of Muon's Newton-Schulz products: "bfloat16" or "float32"; only Muon reads it."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One optimizer of the comparison."""

    build: Callable[[nn.Module, Choice], list[Optimizer]]
    """Returns the optimizers that together train all of the model."""
    learning_rates: tuple[float, ...]
    """The sweep."""
    recorded_as: str
    """Whose recorded best learning rate it takes."""

    @property
    def best(self) -> float:
        """The best learning rate of the recorded sweep, by held-out loss."""
        return json.loads(RECORDED.read_text())[self.recorded_as]


def divided(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters that Celo2 updates by its rule, and the rest."""
    hidden, rest = [], []
    for _, p, route in route_module(model, ends_model=True):
        (hidden if route.rule == CELO2 else rest).append(p)
    return hidden, rest


def _adamw(model: nn.Module, choice: Choice) -> list[Optimizer]:
    return [AdamW(model.parameters(), choice.learning_rate, betas=BETAS, weight_decay=0.0)]


def _muon(momentum: float, model: nn.Module, choice: Choice) -> list[Optimizer]:
    kind = Float32Muon if choice.muon_dtype == "float32" else Muon
    hidden, rest = divided(model)
    muon = kind(hidden, choice.learning_rate, weight_decay=0.0, momentum=momentum, nesterov=True)
    return [muon, AdamW(rest, ADAMW_LEARNING_RATE, betas=BETAS, weight_decay=0.0)]


def _celo2(state_dtype: torch.dtype, model: nn.Module, choice: Choice) -> list[Optimizer]:
    return [Celo2(model, choice.learning_rate, theta=choice.theta, state_dtype=state_dtype)]


_SMALL = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
_LARGE = (5e-3, 1e-2, 2e-2, 4e-2, 8e-2)
TABLE = {
    "celo2": Entry(partial(_celo2, torch.float32), _SMALL, "celo2"),
    "adamw": Entry(_adamw, _SMALL, "adamw"),
    "muon-0.95": Entry(partial(_muon, 0.95), _LARGE, "muon-0.95"),
    "muon-0.9": Entry(partial(_muon, 0.9), _LARGE, "muon-0.9"),
    "celo2-bf16": Entry(partial(_celo2, torch.bfloat16), _SMALL, "celo2"),
}


def check_optimizer(name: str) -> None:
    """Raise InputError unless the table has an optimizer of this name."""
    if name not in TABLE:
        raise InputError(f"unknown optimizer {name!r}: take some of {', '.join(TABLE)}")


def schedule(optimizer: Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Return linear warm-up over 5 % of the steps, then a cosine to zero: the same for all."""
    warmup = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = torch.tensor((step - warmup) / max(1, steps - warmup))
        return float(0.5 * (1 + torch.cos(torch.pi * progress)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
