"""The comparison as a person sees it: live progress, a table, a picture of the curves, and every run as a line of JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import celo2
from celo2.data.text import Text
from celo2.errors import InputError
from celo2.evaluate.torch_demo.optimizers import TABLE
from celo2.evaluate.torch_demo.train import RunConfig, RunResult, check, run
from celo2.theta import load_theta

matplotlib.use("Agg")
import matplotlib.pyplot as plt

VERSIONS = {"celo2": celo2.__version__, "torch": torch.__version__.partition("+")[0]}
SMOOTHING = 20
"""Steps of the running mean that the curves show."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """One optimizer at one rate, over its seeds."""

    optimizer: str
    rate: float
    train: tuple[float, float]
    """Mean and standard deviation over seeds of the training loss over the last steps, nats a byte."""
    held_out: tuple[float, float]
    """The same of the held-out loss."""
    optimizer_milliseconds: float
    """Median of an optimizer step."""
    curve: np.ndarray
    """Training loss of each step, mean over seeds."""


def plan(names: Sequence[str], template: RunConfig, seeds: int, sweep: bool) -> list[RunConfig]:
    """The runs of a comparison: each optimizer at its recorded best rate, or at the five of its sweep, for each seed.

    Raises:
        InputError: an unknown optimizer.
    """
    for name in names:
        check(name)
    rates = {name: TABLE[name].rates if sweep else (TABLE[name].best,) for name in names}
    return [
        dataclasses.replace(template, optimizer=name, learning_rate=rate, seed=template.seed + i)
        for i in range(seeds)
        for name in names
        for rate in rates[name]
    ]


def compare(configs: Sequence[RunConfig], data: Text, out: Path, console: Console) -> list[Summary]:
    """Run what is not yet in `out/runs.jsonl`, then print the table and write `out/curves.png`; the best of each optimizer.

    A comparison that was cut goes on after its last whole run, and one that is complete is only shown.

    Raises:
        InputError: `out` holds another comparison.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "runs.jsonl"
    results = _finished(path, configs, data)
    if results:
        console.print(
            f"{len(results)} of {len(configs)} runs are in {path} already; delete it to run them again", highlight=False
        )
    began = time.monotonic()
    for result in _run_all(configs[len(results) :], data, console):
        with path.open("a") as file:
            file.write(json.dumps(_record(result, data)) + "\n")
        results.append(result)
    summaries = summarize(results)
    best = [min((s for s in summaries if s.optimizer == name), key=_loss) for name in _names(summaries)]
    seeds = len({config.seed for config in configs})
    console.print(_table(summaries, best, data, configs[0], seeds))
    console.print(verdict(best), soft_wrap=True, highlight=False)
    draw(best, summaries, configs[0], data, out / "curves.png")
    console.print(f"{time.monotonic() - began:.0f} s; curves in {out / 'curves.png'}, every run in {path}", highlight=False)
    return best


def _finished(path: Path, configs: Sequence[RunConfig], data: Text) -> list[RunResult]:
    """The runs of this comparison that `path` holds; a last line that was cut is dropped from the file."""
    if not path.exists():
        return []
    results, lines = [], path.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        temporary = path.with_name(path.name + ".part")
        temporary.write_text("".join(lines))
        os.replace(temporary, path)
    for i, line in enumerate(lines):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"line {i + 1} of {path} is no run ({error}); delete the file, or give another --out") from error
        if i >= len(configs) or record.get("identity") != _identity(configs[i], data):
            raise InputError(
                f"{path} holds another comparison (its run {i + 1} is not of this one); give another --out, or delete it"
            )
        results.append(RunResult(configs[i], record["losses"], record["held_out_loss"], record["optimizer_seconds"]))
    return results


def _identity(config: RunConfig, data: Text) -> dict[str, Any]:
    """What decides a run's losses, but for the source of the demo itself."""
    theta = load_theta(config.theta).identity if config.optimizer.startswith("celo2") else None
    return {"config": dataclasses.asdict(config), "theta": theta, "text": data.name, "text_sha256": data.sha256} | VERSIONS


def _record(result: RunResult, data: Text) -> dict[str, Any]:
    return {
        "identity": _identity(result.config, data),
        "train_loss": result.train_loss,
        "held_out_loss": result.held_out_loss,
        "losses": [round(loss, 5) for loss in result.losses],
        "optimizer_seconds": [round(seconds, 6) for seconds in result.optimizer_seconds],
    }


def _run_all(configs: Sequence[RunConfig], data: Text, console: Console) -> Iterable[RunResult]:
    """Each run's final result, under one progress bar over the steps of all."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not configs) as progress:
        task = progress.add_task("starting", total=sum(config.steps for config in configs))
        done = 0
        for config in configs:
            result = RunResult(config)
            for result in run(config, data):
                label = f"{config.optimizer} at {config.learning_rate:g}, seed {config.seed}: loss {result.train_loss:.3f}"
                progress.update(task, completed=done + len(result.losses), description=label)
            done += config.steps
            yield result


def summarize(results: Sequence[RunResult]) -> list[Summary]:
    """One summary for each optimizer and rate, in the order of the runs."""
    groups: dict[tuple[str, float], list[RunResult]] = {}
    for result in results:
        groups.setdefault((result.config.optimizer, result.config.learning_rate), []).append(result)

    def spread(values: list[float]) -> tuple[float, float]:
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

    return [
        Summary(
            name,
            rate,
            spread([r.train_loss for r in group]),
            spread([r.held_out_loss for r in group]),
            1e3 * float(np.median([r.optimizer_seconds for r in group])),
            np.mean([r.losses for r in group], axis=0),
        )
        for (name, rate), group in groups.items()
    ]


def verdict(best: Sequence[Summary]) -> str:
    """The order of the optimizers, each at its best rate, in one line."""
    ranked = sorted(best, key=_loss)
    return (
        "Held-out loss, lowest first: "
        + ", ".join(f"{s.optimizer} {_plus_minus(s.held_out)} at {s.rate:g}" for s in ranked)
        + "."
    )


def _loss(summary: Summary) -> float:
    """What optimizers and rates are ranked by; a run that diverged comes last."""
    return summary.held_out[0] if math.isfinite(summary.held_out[0]) else math.inf


def _names(summaries: Sequence[Summary]) -> list[str]:
    return list(dict.fromkeys(s.optimizer for s in summaries))


def _plus_minus(value: tuple[float, float]) -> str:
    mean, deviation = value
    return f"{mean:.4f} ± {deviation:.4f}" if deviation else f"{mean:.4f}"


def _table(summaries: Sequence[Summary], best: Sequence[Summary], data: Text, config: RunConfig, seeds: int) -> Table:
    title = (
        f"GPT of width {config.model.width}, depth {config.model.depth} on {data.name}: {config.steps} steps, "
        f"{seeds} seed{'s' * (seeds > 1)}; nats a byte"
    )
    table = Table("optimizer", "rate", f"train, last {min(40, config.steps)}", "held out", "optimizer step", title=title)
    for s in summaries:
        row = (s.optimizer, f"{s.rate:g}", _plus_minus(s.train), _plus_minus(s.held_out), f"{s.optimizer_milliseconds:.1f} ms")
        table.add_row(*row, style="bold" if s in best else "dim")
    return table


def draw(best: Sequence[Summary], summaries: Sequence[Summary], config: RunConfig, data: Text, path: Path) -> None:
    """The training curves at the best rates, and beside them, after a sweep, the held-out loss over the rate."""
    swept = len(summaries) > len(best)
    figure, axes = plt.subplots(1, 1 + swept, figsize=(7.5 + 4.5 * swept, 4.5), layout="constrained", squeeze=False)
    colours = {name: f"C{i}" for i, name in enumerate(TABLE)}
    left = axes[0, 0]
    window = min(SMOOTHING, config.steps)
    smooth = [np.convolve(s.curve, np.ones(window) / window, mode="valid") for s in best]
    for s, curve in zip(best, smooth, strict=True):
        label = f"{s.optimizer}, rate {s.rate:g}: {s.held_out[0]:.3f} held out"
        left.plot(np.arange(len(curve)) + window, curve, color=colours[s.optimizer], label=label, lw=1.8)
    left.set(xlabel="step", ylabel="training loss, nats a byte", title=f"{data.name}, running mean over {window} steps")
    finite = [c[np.isfinite(c)] for c in smooth if np.isfinite(c).any()]
    if finite:  # the first steps, all alike, are cut off
        lowest = min(c.min() for c in finite)
        left.set_ylim(lowest - 0.1, max(min(4.0, max(c.max() for c in finite)), lowest + 0.2))
    left.legend(frameon=False)
    if swept:
        right = axes[0, 1]
        for s in best:
            row = [x for x in summaries if x.optimizer == s.optimizer]
            means, deviations = zip(*(x.held_out for x in row), strict=True)
            right.errorbar([x.rate / s.rate for x in row], means, deviations, color=colours[s.optimizer], marker="o", capsize=3)
        right.set_xscale("log", base=2)
        right.xaxis.set_major_formatter(lambda x, _: f"{x:g}" if x >= 1 else f"1/{1 / x:g}")
        right.set(xlabel="rate over the best rate", ylabel="held-out loss", title="sensitivity to the rate")
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(alpha=0.25)
    temporary = path.with_suffix(".part.png")
    figure.savefig(temporary, dpi=130)
    plt.close(figure)
    os.replace(temporary, path)
