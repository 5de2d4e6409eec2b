"""`celo2 validate`: thetas beside tuned baselines on the validation problems."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from celo2.cli.terminal import mean_and_deviation, progress
from celo2.errors import InputError

if TYPE_CHECKING:
    from celo2.evaluate.baselines import Baseline
    from celo2.evaluate.scores import Score


@dataclasses.dataclass(frozen=True)
class Validate:
    """Tune AdamW, Muon and thetas on the validation problems, and compare them.

    The shipped thetas were chosen by these problems, so their scores here are of a selection set.
    """

    thetas: Annotated[tuple[str, ...], tyro.conf.Positional] = ("celo2",)
    """Names of thetas that ship with the package, or paths of files."""
    total_steps: bool = False
    """Run the thetas with nothing tuned, as `total_steps=` does, instead of tuned."""
    optimizers: tuple[str, ...] = ()
    """Further optimizers, by their names in `celo2 bench --list`."""
    problems: tuple[str, ...] | None = None
    """Some of byte-transformer, cifar10-conv, fashion-mlp, mnist-autoencoder, byte-lstm; by default
    all."""
    seeds: int = 3
    """Runs that are reported, at the best settings of each: seeds 1, 2, ...; settings are chosen on
    seed 0."""
    tuning_runs: int | None = None
    """Runs of each search, one setting changed at a time; by default the whole grid."""
    longer: int = 1
    """Train for so many times the steps."""
    jobs: int = 2
    """Processes, of one thread each."""
    out: Path = Path("runs/validation")
    """Folder of runs.jsonl; runs that it holds are not repeated. In a checkout, --out
    records/validation resumes from the recorded runs of AdamW, Muon and the shipped thetas."""

    def __call__(self, console: Console) -> None:
        """Run what is not recorded yet, and print the table."""
        from celo2.evaluate.baselines import ADAMW, MUON, baselines
        from celo2.evaluate.comparison import Comparison
        from celo2.evaluate.scores import relative
        from celo2.evaluate.suites import VALIDATION, problem

        others = baselines(self.optimizers)
        candidates = {
            "AdamW": ADAMW,
            "Muon": MUON,
            **thetas(self.thetas, self.total_steps),
            **others,
        }
        problems = tuple(VALIDATION) if self.problems is None else self.problems
        path = self.out / "runs.jsonl"
        found = [problem(name, self.longer, VALIDATION) for name in problems]
        comparison = Comparison(
            candidates, found, path, self.seeds, self.tuning_runs, jobs=self.jobs
        )
        scores: dict[str, dict[str, Score]] = {name: {} for name in candidates}
        with progress(console, "tuning", len(candidates) * len(problems)) as update:
            for unit, score in comparison.run(comparison.tuning()):
                scores[unit.candidate][unit.problem.name] = score
                update(advance=1)
        console.print(table(scores, relative(scores), problems, console))
        console.print(f"every run in {path}", soft_wrap=True)


def table(
    scores: Mapping[str, Mapping[str, Score]],
    ratios: Mapping[str, Mapping[str, float]],
    problems: Sequence[str],
    console: Console,
) -> Table:
    """Return held-out losses and their ratios to the better baseline, the best mean first."""
    means = {name: sum(mine.values()) / len(mine) for name, mine in ratios.items()}
    caption = "held-out loss, mean and deviation over seeds, and ratio to the better tuned baseline"
    titles = [problem.replace("-", " ") for problem in problems]  # they wrap at blanks
    out = Table("", *titles, "mean ratio", caption=caption)
    for name in sorted(means, key=means.__getitem__):
        cells = []
        for problem in problems:
            score = scores[name][problem]
            loss = mean_and_deviation(console, score.mean, score.deviation)
            cells.append(f"{loss}  {ratios[name][problem]:.3f}")
        out.add_row(name, *cells, f"{means[name]:.4f}")
    return out


def thetas(sources: Sequence[str], total_steps: bool = False) -> dict[str, Baseline]:
    """Return Celo2 with each theta, tuned or by `total_steps`, by a name to show.

    Raises:
        InputError: a theta cannot be read, or has no policy for `total_steps`, or two go by one
            name.
    """
    from celo2.evaluate.baselines import celo2, celo2_total_steps
    from celo2.theta import load_theta

    make = celo2_total_steps if total_steps else celo2
    candidates: dict[str, Baseline] = {}
    for source in sources:
        name = _shown(source)
        if name in candidates:
            raise InputError(f"two of the thetas go by the name {name}; give each file its own")
        candidates[name] = make(load_theta(source))
    return candidates


def _shown(source: str) -> str:
    """Return the name of a shipped theta or of a file, or its folder's if the file is `theta`."""
    path = Path(source)
    if path.stem == "theta":
        return path.parent.name
    return path.stem if path.suffix else source
