"""Take steps of several optimizers in turns; measure their time and memory."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from rich.progress import Progress
from torch import Tensor
from torch._inductor.utils import fresh_inductor_cache
from torch.optim import Optimizer

from benchmarks.optimizer_step.models import build
from benchmarks.optimizer_step.optimizers import OPTIMIZERS

ModelName = Literal["gpt2-small", "resnet50", "vit-b", "gpt-64"]
DtypeName = Literal["float32", "bfloat16"]
OptimizerName = Literal[
    "adamw",
    "muon",
    "muon-float32",
    "celo2",
    "celo2-bf16",
    "celo2-lean",
    "celo2-base",
    "celo2-eager",
    "naive",
    "celo2-no-ns",
    "naive-no-ns",
]
WARM_UP = 2
"""Turns before those that count: the one that compiles, and one for what it left cold."""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Time optimizer steps on the weights of known models, all optimizers taking turns."""

    models: tuple[ModelName, ...] = get_args(ModelName)
    """Whose weights."""
    dtypes: tuple[DtypeName, ...] = get_args(DtypeName)
    """Of the parameters and gradients."""
    optimizers: tuple[OptimizerName, ...] = get_args(OptimizerName)
    """Which take turns, in this order; muon, to which ratios are drawn, must be among them."""
    device: str = "cpu"
    """Where: cpu, or cuda for a GPU."""
    layers: int | None = None
    """Cut GPTs and ViT-B, which have 12, to so many; ResNet-50 stays whole."""
    repeats: int = 11
    """Turns that count."""
    threads: int = torch.get_num_threads()
    """Of PyTorch."""
    profile: bool = False
    """Also print where the time of a step of celo2 goes."""
    out: Path | None = None
    """Results; a picture goes beside them. By default records/speed/optimizer-step.json, of a GPU
    optimizer-step-cuda.json."""

    @property
    def results(self) -> Path:
        """The file of the results."""
        suffix = "" if self.device == "cpu" else "-cuda"
        return self.out or Path(f"records/speed/optimizer-step{suffix}.json")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One optimizer on one model in one dtype."""

    optimizer: str
    parameters: int
    """Number of elements of the model."""
    first_step_seconds: float
    """With compiling, where nothing before did that already."""
    seconds: list[float]
    """Of a step, turn by turn."""
    state_bytes: int
    temporary_bytes: int
    """The most that was allocated at a time during a step, beside what was there before."""

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)

    @property
    def bytes_per_entry(self) -> float:
        """State over all entries of the model, those that AdamW updates included."""
        return self.state_bytes / self.parameters


@dataclasses.dataclass(frozen=True)
class Setting:
    """One model in one dtype, all optimizers in one run."""

    model: str
    dtype: str
    origin: dict[str, Any]
    """How it was measured: versions, machine, options."""
    measurements: list[Measurement]

    def of(self, optimizer: str) -> Measurement | None:
        """Return the measurement of an optimizer, if it took part."""
        for measurement in self.measurements:
            if measurement.optimizer == optimizer:
                return measurement
        return None


def measure(
    model_name: str, dtype_name: str, config: Benchmark, progress: Progress
) -> list[Measurement]:
    """Measure all optimizers on one model in one dtype; they share parameters and gradients."""
    model = build(model_name, config.layers or 12, getattr(torch, dtype_name), config.device)
    candidates = {name: OPTIMIZERS[name](model) for name in config.optimizers}
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    turns = WARM_UP + config.repeats
    task = progress.add_task("", total=turns * len(candidates))
    for _, (name, optimizers) in itertools.product(range(turns), candidates.items()):
        progress.update(task, description=f"{model_name} {dtype_name}: {name}")
        taken[name].append(seconds(optimizers))
        progress.advance(task)
    progress.update(task, description=f"{model_name} {dtype_name}")
    if config.profile:
        found = shares(candidates["celo2"])
        parts = ", ".join(f"{name} {share:.0%}" for name, share in found.items())
        progress.console.print(f"celo2 on {model_name}, {dtype_name}: {parts}", highlight=False)
    parameters = sum(p.numel() for p in model.parameters())
    measurements = []
    for name, optimizers in candidates.items():
        first, *_ = taken[name]
        memory = state_bytes(optimizers), temporary_bytes(optimizers)
        measurements.append(Measurement(name, parameters, first, taken[name][WARM_UP:], *memory))
    return measurements


def seconds(optimizers: Sequence[Optimizer]) -> float:
    """Return the seconds of one step of all parameters."""
    _wait(optimizers)
    began = time.perf_counter()
    for optimizer in optimizers:
        optimizer.step()
    _wait(optimizers)
    return time.perf_counter() - began


def _wait(optimizers: Sequence[Optimizer]) -> None:
    """Wait for what a GPU was given to do."""
    if _on_gpu(optimizers):
        torch.cuda.synchronize()


def _on_gpu(optimizers: Sequence[Optimizer]) -> bool:
    return optimizers[0].param_groups[0]["params"][0].is_cuda


def state_bytes(optimizers: Sequence[Optimizer]) -> int:
    """Return the bytes of the tensors that are kept from step to step."""
    total = 0
    for optimizer in optimizers:
        for state in optimizer.state.values():
            total += sum(x.nbytes for x in state.values() if isinstance(x, Tensor))
    return total


def temporary_bytes(optimizers: Sequence[Optimizer]) -> int:
    """Return the most that PyTorch's allocator held at a time during a step.

    What was there before the step is not counted.
    """
    if _on_gpu(optimizers):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds(optimizers)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        seconds(optimizers)
    assert profile.profiler is not None
    results: Any = profile.profiler.kineto_results
    events = results.events()
    held = itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]")
    return max(held, default=0)


@contextlib.contextmanager
def nothing_compiled() -> Iterator[None]:
    """Let a first step compile all it needs, whatever was run before and is on disk."""
    torch._dynamo.reset()
    with fresh_inductor_cache():
        yield
    gc.collect()


def shares(optimizers: Sequence[Optimizer]) -> dict[str, float]:
    """Return where the time of a compiled Celo2 step goes, as fractions of it.

    Profiling itself slows down steps of many small tensors.
    """
    with torch.profiler.profile() as profile:
        seconds(optimizers)
    found: dict[str, float] = {}
    for event in profile.key_averages():
        name = part(event.key)
        found[name] = found.get(name, 0.0) + event.self_cpu_time_total
    total = sum(found.values())
    return {name: time / total for name, time in found.items()}


def part(event: str) -> str:
    """Return which part of a compiled step an event of the profiler belongs to.

    Products of other parts than Newton-Schulz are too small to be told apart.
    """
    if event in ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"):
        return "Newton-Schulz products"
    if "CompiledFxGraph" in event:
        return "fused kernels"
    return "AdamW" if "adamw" in event else "the rest"
