"""One training run of the demo, as a generator, so that its caller can show progress."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import numpy as np
import torch

from celo2.data import text
from celo2.errors import InputError
from celo2.evaluate.torch_demo.gpt import GPT, HEAD_WIDTH, GPTConfig
from celo2.evaluate.torch_demo.optimizers import TABLE, Choice, check_optimizer, schedule

EVALUATION_BATCHES = 16
TAIL = 40
"""Steps at the end whose mean is the training loss that a run reports."""
LARGEST_SEED = 2**64 - 1
"""As PyTorch's generators take it."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run: model, data order and weights follow from it.

    Raises:
        InputError: an unknown optimizer, or a number out of range.
    """

    optimizer: str
    learning_rate: float
    seed: int = 0
    steps: int = 300
    batch_size: int = 16
    model: GPTConfig = GPTConfig()
    theta: str = "celo2"
    """Name or path of the theta of Celo2; the others do not read it."""
    muon_dtype: str = "bfloat16"
    """Of Muon's Newton-Schulz products; the others do not read it."""

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer)
        sizes = {"steps": self.steps, "width": self.model.width, "depth": self.model.depth}
        for name, value in sizes.items():
            if value < 1:
                raise InputError(f"{name} is {value}; give at least 1")
        if self.model.width % HEAD_WIDTH:
            raise InputError(
                f"width is {self.model.width}; give a multiple of {HEAD_WIDTH}, the width of a head"
            )
        if not 0 <= self.seed <= LARGEST_SEED:
            raise InputError(f"seed is {self.seed}; give a number from 0 to 2^64 - 1")


@dataclasses.dataclass
class RunResult:
    """What a run leaves; losses in nats per byte, seconds on this machine."""

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


def run(config: RunConfig, data: text.Text) -> Iterator[RunResult]:
    """Train, yielding the growing result after every step, and last with the held-out loss.

    The seed decides weights and batches; all optimizers with one seed see the same.
    """
    model = GPT(config.model, config.seed)
    choice = Choice(config.learning_rate, config.theta, config.muon_dtype)
    optimizers = TABLE[config.optimizer].build(model, choice)
    schedules = [schedule(optimizer, config.steps) for optimizer in optimizers]
    generator = np.random.default_rng(config.seed)
    context = config.model.context
    result = RunResult(config)
    for _ in range(config.steps):
        windows = text.windows(data.train, generator, config.batch_size, context)
        loss = model.loss(torch.from_numpy(windows))
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
    """Return the mean loss on windows of the held-out text that are the same for every run."""
    generator = np.random.default_rng(2**31)
    losses = []
    for _ in range(EVALUATION_BATCHES):
        windows = text.windows(data.held_out, generator, 16, config.model.context)
        losses.append(float(model.loss(torch.from_numpy(windows))))
    return float(np.mean(losses))
