"""The tables of README.md and docs/*.md, written from the records between marks.

A table stands between `<!-- table:NAME -->` and `<!-- /table -->`; `celo2 report` writes what is
in between, and a test compares it with the records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from celo2.errors import InputError
from celo2.evaluate import (
    agents,
    benchmark_tables,
    guard_table,
    speed_tables,
    total_steps_table,
    validation_tables,
)
from celo2.evaluate.evidence import Evidence, evidence
from celo2.evaluate.tables import Table
from celo2.evaluate.torch_demo.sweep import best_of_sweep
from celo2.evaluate.validation_tables import DEMO_SWEEP
from celo2.files import write, write_json

MARKED = re.compile(
    r"(?P<begin><!-- table:(?P<name>\S+) -->\n).*?(?P<end><!-- /table -->)", re.DOTALL
)
DEMO_LEARNING_RATES = "celo2/evaluate/torch_demo/learning_rates.json"
"""What `celo2 train` runs at, a file of the package."""


NOTHING = Table(("no run is recorded yet: `celo2 bench --out records/benchmark`",), ())


def _of_the_benchmark(table: Callable[[Evidence], Table]) -> Callable[[Path], Table]:
    def of(root: Path) -> Table:
        found = evidence(root)
        made = table(found) if found.problems else NOTHING
        return made if made.rows else NOTHING

    return of


TABLES: dict[str, Callable[[Path], Table]] = {
    "validation": validation_tables.validation,
    "validation-long": validation_tables.validation_long,
    "validation-losses": validation_tables.validation_losses,
    "validation-losses-long": validation_tables.validation_losses_long,
    "tuned-learning-rates": validation_tables.tuned_learning_rates,
    "experiments": validation_tables.experiments,
    "experiment-answers": validation_tables.experiment_answers,
    "sensitivities": validation_tables.sensitivities,
    "demo": validation_tables.demo,
    "demo-bfloat16": validation_tables.demo_bfloat16,
    "benchmark-lost": _of_the_benchmark(benchmark_tables.lost),
    "benchmark-tuned": _of_the_benchmark(benchmark_tables.tuned),
    "benchmark-tuned-losses": _of_the_benchmark(benchmark_tables.tuned_losses),
    "benchmark-single": _of_the_benchmark(benchmark_tables.single),
    "benchmark-configurations": _of_the_benchmark(benchmark_tables.configurations),
    "benchmark-speed-ups": _of_the_benchmark(benchmark_tables.speed_ups),
    "benchmark-bands": _of_the_benchmark(benchmark_tables.bands),
    "benchmark-variants": _of_the_benchmark(benchmark_tables.variants),
    "benchmark-longer": _of_the_benchmark(benchmark_tables.longer),
    "benchmark-ladder": _of_the_benchmark(benchmark_tables.ladder),
    "benchmark-costs": _of_the_benchmark(benchmark_tables.costs),
    "rl-returns": agents.recorded_table,
    "guard": guard_table.guard,
    "guard-cost": speed_tables.guard_cost,
    "total-steps": total_steps_table.total_steps,
    "total-steps-wide": total_steps_table.wide,
    "adapted": total_steps_table.adapted,
    "side-by-side": speed_tables.side_by_side,
    "optimizer-step": speed_tables.optimizer_step,
    "optimizer-step-ratios": speed_tables.optimizer_step_ratios,
    "gpt3-xl": speed_tables.gpt3_xl,
    "jax-step": speed_tables.jax_step,
    "meta-speed": speed_tables.meta_speed,
    "meta-parts": speed_tables.meta_parts,
}
"""Name -> what makes the table from the records of a checkout."""


def filled(text: str, root: Path) -> str:
    """Return a page with its marked tables made from the records of the checkout `root`.

    Raises:
        InputError: a mark names no table.
    """

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise InputError(f"no table is called {name!r}: take one of {', '.join(TABLES)}")
        return f"{match['begin']}{TABLES[name](root).markdown()}\n{match['end']}"

    return MARKED.sub(fill, text)


def pages(root: Path) -> list[Path]:
    """Return the pages that may hold marks."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def demo_learning_rates(root: Path) -> dict[str, float]:
    """Return the best learning rate of each optimizer in the demo's recorded sweep."""
    best = best_of_sweep(root / DEMO_SWEEP)
    return {name: learning_rate for name, (learning_rate, _) in best.items()}


def update(root: Path) -> list[Path]:
    """Write the marked tables of all pages, and the demo's learning rates; return what changed.

    Raises:
        InputError: `root` is no checkout, or a mark names no table.
    """
    if not (root / "records").is_dir():
        raise InputError(f"root {root} has no folder records; give the folder of a checkout")
    changed = []
    learning_rates = demo_learning_rates(root)
    path = root / DEMO_LEARNING_RATES
    if not path.exists() or json.loads(path.read_text()) != learning_rates:
        write_json(path, learning_rates)
        changed.append(path)
    for path in pages(root):
        before = path.read_text()
        after = filled(before, root)
        if after != before:
            write(path, after.encode())
            changed.append(path)
    return changed
