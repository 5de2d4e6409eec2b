"""Runs of a sweep as one program, over the same runs one after the other.

    python -m benchmarks.side_by_side

Both ways take turns in one process, and the median ratio of a turn is kept, which other work on the
machine disturbs least. Compilation is left out. The device is the one that JAX finds.
"""

from __future__ import annotations

import dataclasses
import platform
import statistics
from pathlib import Path

import jax
import tyro

from celo2.evaluate.baselines import ADAMW, Baseline, celo2
from celo2.evaluate.suites import VALIDATION, Problem, problem
from celo2.evaluate.train import train, train_side_by_side
from celo2.files import write_json
from celo2.provenance import provenance
from celo2.theta import load_theta

PROBLEMS = ("fashion-mlp", "cifar10-conv")


@dataclasses.dataclass(frozen=True)
class Config:
    """Time short runs at several learning rates."""

    problems: tuple[str, ...] = PROBLEMS
    """Of the validation suite."""
    runs: int = 8
    """Learning rates of a sweep."""
    steps: int = 20
    """Of each run."""
    turns: int = 3
    """Turns that count, after one that compiles."""
    out: Path = Path("records/speed/side-by-side.json")
    """Results."""


def main(config: Config) -> None:
    """Measure all cases and write the results."""
    rows = []
    for name in config.problems:
        short = dataclasses.replace(problem(name, 1, VALIDATION), steps=config.steps)
        for title, baseline in {"AdamW": ADAMW, "Celo2": celo2(load_theta("celo2"))}.items():
            row = {"problem": name, "optimizer": title}
            rows.append(row | measure(short, baseline, config))
            print(rows[-1], flush=True)
    origin = {"runs": config.runs, "steps": config.steps, "turns": config.turns}
    origin |= {"device": jax.devices()[0].device_kind, "processor": platform.machine()}
    write_json(config.out, {**origin, **provenance("jax"), "rows": rows})


def measure(short: Problem, baseline: Baseline, config: Config) -> dict[str, float]:
    """Return seconds of a run alone, and the time of all runs as one program over their sum."""
    settings = baseline.grid.settings[0]
    runs = [({**settings, "learning_rate": 1e-3 * (1 + i)}, 0) for i in range(config.runs)]
    alone, ratios = [], []
    for turn in range(1 + config.turns):
        one_by_one = sum(train(short, baseline, *run)["seconds"] for run in runs)
        together = sum(each["seconds"] for each in train_side_by_side(short, baseline, runs))
        if turn:
            alone.append(one_by_one / config.runs)
            ratios.append(together / one_by_one)
    return {
        "seconds": round(statistics.median(alone), 3),
        "ratio": round(statistics.median(ratios), 3),
    }


if __name__ == "__main__":
    main(tyro.cli(Config))
