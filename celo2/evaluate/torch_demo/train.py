"""One training run of the demo, in execution order; a generator, so that whoever shows progress need not be in it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import numpy as np
import torch

from celo2.data import text
from celo2.errors import InputError
from celo2.evaluate.torch_demo.gpt import GPT, GPTConfig
from celo2.evaluate.torch_demo.optimizers import TABLE, schedule

EVALUATION_BATCHES = 16
TAIL = 40
"""Steps at the end whose mean is the training loss that a run reports."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run: model, data order and weights follow from it."""

    optimizer: str
    learning_rate: float
    seed: int = 0
    steps: int = 300
    batch_size: int = 16
    model: GPTConfig = GPTConfig()
    theta: str = "celo2"
    """Name or path of the theta of Celo2; the others do not read it."""


@dataclasses.dataclass
class RunResult:
    """What a run leaves; losses in nats a byte, seconds on this machine."""

    config: RunConfig
    losses: list[float] = dataclasses.field(default_factory=list)
    """Training loss of each step, before its update."""
    held_out_loss: float = float("nan")
    optimizer_seconds: list[float] = dataclasses.field(default_factory=list)
    """Of each optimizer step alone."""

    @property
    def train_loss(self) -> float:
        """Mean over the last steps."""
        return float(np.mean(self.losses[-TAIL:]))


def check(optimizer: str) -> None:
    """Raises InputError unless the demo knows the optimizer."""
    if optimizer not in TABLE:
        raise InputError(f"unknown optimizer {optimizer!r}: take some of {', '.join(TABLE)}")


def run(config: RunConfig, data: text.Text) -> Iterator[RunResult]:
    """Train, yielding the growing result after every step, and last with the held-out loss.

    The seed decides weights and batches; all optimizers with one seed see the same.

    Raises:
        InputError: unknown optimizer.
    """
    check(config.optimizer)
    model = GPT(config.model, config.seed)
    optimizers = TABLE[config.optimizer].build(model, config.learning_rate, config.theta)
    schedules = [schedule(optimizer, config.steps) for optimizer in optimizers]
    generator = np.random.default_rng(config.seed)
    result = RunResult(config)
    for _ in range(config.steps):
        tokens = torch.from_numpy(text.windows(data.train, generator, config.batch_size, config.model.context))
        loss = model.loss(tokens)
        loss.backward()
        began = time.perf_counter()
        for optimizer in optimizers:
            optimizer.step()
        result.optimizer_seconds.append(time.perf_counter() - began)
        model.zero_grad()
        for each in schedules:
            each.step()
        result.losses.append(loss.item())
        yield result
    result.held_out_loss = evaluate(model, data, config)
    yield result


@torch.no_grad()
def evaluate(model: GPT, data: text.Text, config: RunConfig) -> float:
    """Mean loss on windows of the held-out text that are the same for every run."""
    generator = np.random.default_rng(2**31)
    batches = [text.windows(data.held_out, generator, 16, config.model.context) for _ in range(EVALUATION_BATCHES)]
    return float(np.mean([float(model.loss(torch.from_numpy(tokens))) for tokens in batches]))
