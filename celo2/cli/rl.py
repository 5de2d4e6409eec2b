"""`celo2 rl`: agents that PPO trains, by several optimizers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import rich.table
from rich.box import SIMPLE_HEAD
from rich.console import Console

from celo2.cli.terminal import progress

if TYPE_CHECKING:
    from celo2.evaluate.comparison import Comparison
    from celo2.evaluate.scores import Score
    from celo2.evaluate.tables import Table


@dataclasses.dataclass(frozen=True)
class RL:
    """Train agents by PPO on CartPole and MinAtar, and record every run.

    Learning rates are chosen on seed 0 and returns reported on seeds 1, 2, ...; Adam runs beside
    them as purejaxrl has it, with nothing tuned.
    """

    games: tuple[str, ...] = ("cartpole", "asterix", "breakout", "freeway", "space-invaders")
    """What to play."""
    optimizers: tuple[str, ...] = ("adamw", "muon", "celo2", "celo2-total-steps")
    """Some of those that `celo2 bench --list` prints, or your own as module:function."""
    thetas: tuple[str, ...] = ()
    """Files of further thetas, or names of shipped ones."""
    seeds: int = 8
    """Runs that are reported."""
    tuning_runs: int = 5
    """Runs of each search."""
    longer: int = 1
    """Train for so many times 1e6 environment steps; 10 is the setting of the paper."""
    jobs: int = 2
    """Processes, of one thread each."""
    out: Path = Path("runs/rl")
    """Folder of runs.jsonl; runs that it holds are not repeated. In a checkout, --out records/rl
    resumes from the recorded runs."""

    def __call__(self, console: Console) -> None:
        """Run what is not recorded yet, and print the table."""
        from celo2.evaluate.agents import ADAM, published, table

        comparison = self.comparison()
        units = [*published(comparison), *comparison.tuning()]
        scores: dict[str, dict[str, Score]] = {name: {} for name in (ADAM, *comparison.candidates)}
        with progress(console, "training", len(units)) as update:
            for unit, score in comparison.run(units):
                scores[unit.candidate][unit.problem.name] = score
                update(advance=1, description=f"{unit.candidate} on {unit.problem.name}")
        console.print(shown(table(scores)))
        console.print(f"every run in {comparison.path}", soft_wrap=True)

    def comparison(self) -> Comparison:
        """Return what the flags ask for."""
        from celo2.cli.validate import thetas
        from celo2.evaluate.baselines import baselines
        from celo2.evaluate.comparison import Comparison
        from celo2.evaluate.suites import RL, problem

        candidates = {**baselines(self.optimizers), **thetas(self.thetas)}
        games = [problem(name, self.longer, RL) for name in self.games]
        path = self.out / "runs.jsonl"
        return Comparison(candidates, games, path, self.seeds, self.tuning_runs, self.jobs)


def shown(found: Table) -> rich.table.Table:
    """Return a table of the report for the terminal."""
    out = rich.table.Table(*found.header, box=SIMPLE_HEAD)
    out.caption = "return of the last episodes: interquartile mean over seeds, 95 % interval"
    for row in found.rows:
        out.add_row(*row)
    return out
