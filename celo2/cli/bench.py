"""`celo2 bench`: optimizers on the benchmark's problems, which no choice has seen."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Column, Table

from celo2.cli.terminal import mean_and_deviation, progress

if TYPE_CHECKING:
    from celo2.evaluate.baselines import Baseline
    from celo2.evaluate.comparison import Comparison, Unit
    from celo2.evaluate.scores import Score
    from celo2.evaluate.suites import Problem

QUICK_OPTIMIZERS = ("adamw", "muon", "celo2")
QUICK_TUNING_RUNS = 5


@dataclasses.dataclass(frozen=True)
class Bench:
    """Tune optimizers on the benchmark's problems, and record every run.

    Settings are chosen on seed 0 and reported on seeds 1, 2, ...; each optimizer has the same
    budget of tuning runs, and the same schedule, batches and initial weights. `celo2 report`
    writes the tables and the page.
    """

    list_all: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Only print the problems and the optimizers."""
    part: Literal["tuned", "single", "sensitivity", "variants", "ladder"] = "tuned"
    """Each at its best settings; or each at the one configuration that was best on the validation
    problems, at several lengths, for speed-ups over tuned AdamW; or one setting at a time around
    the best; or the best settings on variants of each problem (these three need the tuned runs); or
    GPTs of ascending size, tuned on the smallest."""
    quick: bool = False
    """Ten minutes on two cores: a few cheap problems, AdamW, Muon and Celo2, few settings, one
    reported seed."""
    problems: tuple[str, ...] | None = None
    """Some of those that --list prints; by default all."""
    optimizers: tuple[str, ...] | None = None
    """Some of those that --list prints, or your own as module:function, a function from an optax
    schedule to a transformation; by default all."""
    thetas: tuple[str, ...] = ()
    """Files of further thetas, or names of shipped ones."""
    settings: tuple[str, ...] = ("learning_rate",)
    """What --part sensitivity changes: learning_rate, weight_decay, warmup, adamw_lr_multiplier."""
    variants: tuple[str, ...] = (
        "batch-quarter",
        "batch-4x",
        "weights-tenth",
        "weights-10x",
        "bfloat16",
    )
    """What --part variants changes: the batch size, the scale that weights are stored at, the dtype
    of weights and gradients, or, by width-4x, the width. It takes validation problems too."""
    validation: Path = Path("records/validation/runs.jsonl")
    """The recorded runs by which --part single chooses."""
    velo: Path | None = None
    """Checkpoint of VeLO, which joins the optimizers."""
    seeds: int | None = None
    """Runs that are reported, at the best settings of each: seeds 1, 2, ...; by default 3."""
    tuning_runs: int | None = None
    """Runs of each search; by default 12."""
    longer: int = 1
    """Train for so many times the steps."""
    jobs: int = 2
    """Processes, of one thread each."""
    side_by_side: int | None = None
    """Runs of a sweep that are made at once, as one program; by default 1 on a CPU and 16 on an
    accelerator."""
    out: Path = Path("runs/benchmark")
    """Folder of runs.jsonl; runs that it holds are not repeated. In a checkout, --out
    records/benchmark resumes from the recorded runs."""

    def __call__(self, console: Console) -> None:
        """Run what is not recorded yet, and print the table."""
        if self.list_all:
            console.print(listing())
            return
        comparison = self.comparison()
        stages = self._stages(comparison)
        results: dict[str, dict[str, Any]] = {name: {} for name in comparison.candidates}
        with progress(console, self.part, sum(map(len, stages))) as update:
            for unit, result in itertools.chain.from_iterable(map(comparison.run, stages)):
                results[unit.candidate][unit.problem.name] = result
                done = f"{self.part}: {unit.candidate} on {unit.problem.name}"
                update(advance=1, description=done)
        if self.part in ("tuned", "ladder"):
            console.print(table(results, comparison.problems, console))
        console.print(f"every run in {comparison.path}", soft_wrap=True)

    def _stages(self, comparison: Comparison) -> list[list[Unit]]:
        """Return what is run, one stage after the other."""
        if self.part == "tuned":
            return [comparison.tuning()]
        if self.part == "single":
            return [comparison.single(self.validation)]
        if self.part == "sensitivity":
            return [comparison.sensitivity(self.settings)]
        if self.part == "variants":
            return [comparison.variants(self.variants)]
        first = self._first_rung()
        tuned = dataclasses.replace(comparison, problems=[first])
        return [tuned.tuning(), comparison.carried(first)]

    def comparison(self) -> Comparison:
        """Return what the flags ask for."""
        from celo2.evaluate.comparison import TUNING_RUNS, Comparison
        from celo2.evaluate.suites import REPORTED_SEEDS

        seeds, runs = self.seeds, self.tuning_runs
        if seeds is None:
            seeds = 1 if self.quick else len(REPORTED_SEEDS)
        if runs is None:
            runs = QUICK_TUNING_RUNS if self.quick else TUNING_RUNS
        path = self.out / "runs.jsonl"
        candidates, problems = self._candidates(), self._problems()
        return Comparison(candidates, problems, path, seeds, runs, self.jobs, self.side_by_side)

    def _candidates(self) -> dict[str, Baseline]:
        from celo2.cli.validate import thetas
        from celo2.evaluate.baselines import OPTIMIZERS, baselines, velo

        names = self.optimizers
        if names is None:
            names = QUICK_OPTIMIZERS if self.quick else tuple(OPTIMIZERS)
        found = {**baselines(names), **thetas(self.thetas)}
        return found if self.velo is None else {**found, "VeLO": velo(self.velo)}

    def _problems(self) -> list[Problem]:
        from celo2.evaluate.suites import BENCHMARK, LADDER, VALIDATION, problem

        names = self.problems
        if self.part == "variants" and names is not None:
            return [problem(name, self.longer, {**VALIDATION, **BENCHMARK}) for name in names]
        if self.part == "ladder":
            names = tuple(LADDER) if names is None else names
            return [problem(name, 1, LADDER) for name in names]
        if names is None:
            names = [name for name, entry in BENCHMARK.items() if entry.quick or not self.quick]
        return [problem(name, self.longer, BENCHMARK) for name in names]

    def _first_rung(self) -> Problem:
        from celo2.evaluate.suites import LADDER, problem

        return problem(next(iter(LADDER)))


def listing() -> Group:
    """Return tables of the problems and of the optimizers."""
    from celo2.evaluate.baselines import OPTIMIZERS
    from celo2.evaluate.suites import BENCHMARK

    names = Column("problem", no_wrap=True)
    problems = Table(names, "steps", "domain", "data also in", "stands for", box=SIMPLE_HEAD)
    problems.caption = "*: in --quick"
    for name, entry in BENCHMARK.items():
        seen = ", ".join(entry.data_seen_in)
        shown = f"{name} *" if entry.quick else name
        problems.add_row(shown, str(entry.steps), entry.domain, seen, entry.stands_for)
    optimizers = Table(Column("optimizer", no_wrap=True), "in tables", box=SIMPLE_HEAD)
    for name, optimizer in OPTIMIZERS.items():
        optimizers.add_row(name, optimizer.title)
    return Group(problems, optimizers)


def table(
    scores: Mapping[str, Mapping[str, Score]], problems: Sequence[Problem], console: Console
) -> Table:
    """Return held-out losses by problem, and the geometric mean of their ratios to the first."""
    from celo2.evaluate.intervals import geometric_mean, paired_ratios

    first = next(iter(scores))
    several = any(len(score.losses) > 1 for mine in scores.values() for score in mine.values())
    over_seeds = ", mean and deviation over seeds" if several else ", of one seed"
    out = Table("problem", *scores, caption=f"held-out loss{over_seeds}")
    for each in problems:
        cells = []
        for mine in scores.values():
            score = mine[each.name]
            cells.append(mean_and_deviation(console, score.mean, score.deviation))
        out.add_row(each.name, *cells)
    means = []
    for mine in scores.values():
        ratios = {name: paired_ratios(mine[name], scores[first][name]) for name in mine}
        means.append(f"{geometric_mean(ratios).value:.4f}")
    out.add_section()
    out.add_row(f"over {first}", *means)
    return out
