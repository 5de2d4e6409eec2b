"""`celo2 train`: a small GPT trained by several optimizers and the comparison shown."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from celo2.cli.terminal import mean_and_deviation, progress

if TYPE_CHECKING:
    from celo2.data.text import Text
    from celo2.evaluate.torch_demo.compare import Summary
    from celo2.evaluate.torch_demo.train import RunConfig, RunResult


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a small GPT on text with Celo2, AdamW and Muon under one schedule, and compare them."""

    optimizers: tuple[str, ...] = ("celo2", "adamw", "muon-0.95", "muon-0.9")
    """Some of celo2, celo2-bf16 (its state in bfloat16), adamw, muon-0.95, muon-0.9."""
    theta: str = "celo2"
    """Theta of Celo2: the name of one that ships with the package, or the path of a file."""
    text: Path | None = None
    """Text to train on; by default the source of the Python standard library."""
    steps: int = 300
    """Steps per run."""
    seed: int = 0
    """Of weights and batches."""
    seeds: int = 1
    """Runs per optimizer and learning rate, from `seed` on; the table gives mean and deviation."""
    sweep: bool = False
    """Try five learning rates per optimizer instead of the best one of the recorded sweep."""
    width: int = 128
    """Of the residual stream, a multiple of 32."""
    depth: int = 4
    """Transformer blocks."""
    out: Path | None = None
    """Folder of the results, runs.jsonl and curves.png; by default runs/train, or runs/sweep."""

    def __call__(self, console: Console) -> None:
        """Run what is not recorded yet, then show everything."""
        from celo2.data.text import from_file, standard_library
        from celo2.evaluate.torch_demo.compare import best_of_each, plan, summarize
        from celo2.evaluate.torch_demo.gpt import GPTConfig
        from celo2.evaluate.torch_demo.picture import draw
        from celo2.evaluate.torch_demo.train import RunConfig

        began = time.monotonic()
        model = GPTConfig(self.width, self.depth)
        template = RunConfig("celo2", 0.0, self.seed, self.steps, model=model, theta=self.theta)
        dtype = _muon_dtype(self.optimizers, console)
        configs = plan(self.optimizers, template, self.seeds, self.sweep, dtype)
        data = from_file(self.text) if self.text else standard_library()
        out = self.out or Path("runs") / ("sweep" if self.sweep else "train")
        summaries = summarize(_results(configs, data, out / "runs.jsonl", console))
        best = best_of_each(summaries)
        console.print(_table(summaries, best, self._title(data), self.steps, console))
        console.print(verdict(best, console), soft_wrap=True)
        draw(best, summaries, data.name, out / "curves.png")
        seconds = time.monotonic() - began
        files = f"curves in {out / 'curves.png'}, every run in {out / 'runs.jsonl'}"
        console.print(f"{seconds:.0f} s; {files}", soft_wrap=True)

    def _title(self, data: Text) -> str:
        seeds = f"{self.seeds} seed{'s' * (self.seeds > 1)}"
        model = f"GPT of width {self.width}, depth {self.depth}"
        return f"{model} on {data.name}: {self.steps} steps, {seeds}; nats per byte"


def verdict(best: Sequence[Summary], console: Console) -> str:
    """Return the order of the optimizers, each at its best learning rate, in one line."""
    from celo2.evaluate.torch_demo.compare import held_out_loss

    places = []
    for s in sorted(best, key=held_out_loss):
        loss = mean_and_deviation(console, *s.held_out)
        places.append(f"{s.optimizer} {loss} at {s.learning_rate:g}")
    return f"Held-out loss, lowest first: {', '.join(places)}."


def _muon_dtype(optimizers: Sequence[str], console: Console) -> str:
    """Return the faster dtype for Muon's products on this processor, and say which one it is."""
    from celo2.evaluate.torch_demo.muon import bfloat16_slowdown

    if not any(name.startswith("muon") for name in optimizers):
        return "bfloat16"
    slowdown = bfloat16_slowdown()
    dtype = "float32" if slowdown > 1 else "bfloat16"
    measured = (
        f"{slowdown:.1f} times slower" if slowdown > 1 else f"{1 / slowdown:.1f} times faster"
    )
    console.print(
        f"Muon's Newton-Schulz runs in {dtype}: "
        f"a product in bfloat16 is {measured} than in float32 here.",
        soft_wrap=True,
    )
    return dtype


def _results(
    configs: Sequence[RunConfig], data: Text, path: Path, console: Console
) -> list[RunResult]:
    """Return the result of every run, from the records or from training now."""
    from celo2.evaluate.records import Records
    from celo2.evaluate.torch_demo.compare import record, recorded
    from celo2.evaluate.torch_demo.train import run

    records = Records(path)
    there = sum(recorded(records, config, data) is not None for config in configs)
    if there:
        console.print(
            f"{there} of {len(configs)} runs are in {path} already; delete it to run them again",
            soft_wrap=True,
        )
    results, done = [], 0
    with progress(console, "starting", sum(config.steps for config in configs)) as update:
        for config in configs:
            result = recorded(records, config, data)
            if result is None:
                for result in run(config, data):
                    completed = done + len(result.losses)
                    update(completed=completed, description=_describe(result))
                assert result is not None
                record(records, result, data)
            results.append(result)
            done += config.steps
            update(completed=done)
    return results


def _describe(result: RunResult) -> str:
    config = result.config
    at = f"{config.optimizer} at {config.learning_rate:g}, seed {config.seed}"
    return f"{at}: loss {result.train_loss:.3f}"


def _table(
    summaries: Sequence[Summary], best: Sequence[Summary], title: str, steps: int, console: Console
) -> Table:
    last = f"train, last {min(40, steps)}"
    columns = ("optimizer", "learning rate", last, "held out", "optimizer step")
    table = Table(*columns, title=title)
    for s in summaries:
        table.add_row(
            s.optimizer,
            f"{s.learning_rate:g}",
            mean_and_deviation(console, *s.train),
            mean_and_deviation(console, *s.held_out),
            f"{s.optimizer_milliseconds:.1f} ms",
            style="bold" if s in best else "dim",
        )
    return table
