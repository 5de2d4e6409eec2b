"""`celo2 experiments`: the table of the recorded experiments, and running them again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Column, Table

from celo2.errors import InputError

if TYPE_CHECKING:
    from celo2.evaluate.experiments import Experiment
    from celo2.evaluate.scores import Score


@dataclasses.dataclass(frozen=True)
class Experiments:
    """Print the table of the recorded experiments, or run some of them."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Experiments to run (or resume) and record; none: only print."""
    folder: Path = Path("records/experiments")
    """Where their files are."""
    baselines: Path = Path("records/validation/runs.jsonl")
    """The recorded runs of tuned Muon, to which losses are set."""
    runs: Path = Path("runs/experiments")
    """Where they run."""

    def __call__(self, console: Console) -> None:
        """Run and print."""
        from celo2.evaluate.experiments import muon_scores, read, write
        from celo2.meta.config import from_settings
        from celo2.meta.devices import use_cores

        found = read(self.folder)
        muon = muon_scores(self.baselines)
        unknown = [name for name in self.names if name not in found]
        if unknown:
            raise InputError(f"unknown experiment {unknown[0]!r}: take some of {', '.join(found)}")
        configs = {name: from_settings(found[name].settings_to_run()) for name in self.names}
        if configs:
            use_cores(*[config.estimator.trajectories for config in configs.values()])
        for name in configs:
            found[name] = self._run(found[name], console)
            write(found[name], self.folder)
        console.print(table(found, muon))

    def _run(self, experiment: Experiment, console: Console) -> Experiment:
        """Train (or resume) and score by screening; return the experiment with its result."""
        from celo2.cli.meta_train import train_theta
        from celo2.evaluate.baselines import celo2, celo2_total_steps
        from celo2.evaluate.screen import screen
        from celo2.meta.config import from_settings
        from celo2.provenance import provenance

        config = from_settings(experiment.settings_to_run())
        theta = train_theta(experiment.name, config, self.runs / experiment.name, console)
        with console.status("screening"):
            baseline = celo2(theta) if config.inner.policy is None else celo2_total_steps(theta)
            scores = screen(baseline, self.folder / "screening.jsonl")
        result = {
            "minutes": theta.provenance["minutes"],
            "theta": theta.identity,
            "losses": {name: list(score.losses.values()) for name, score in scores.items()},
            **provenance("jax", "optax"),
        }
        return dataclasses.replace(experiment, result=result)


def table(experiments: Mapping[str, Experiment], muon: Mapping[str, Score]) -> Group:
    """Return ratios of held-out losses to tuned Muon's, and what each asked and found.

    The lowest mean comes first. A cell ends with the number of its seeds where they are fewer than
    three; a mean is of all five problems or none.
    """
    from celo2.evaluate.experiments import mean_ratio, ratios

    style = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
    scores = Table(Column("experiment", no_wrap=True), **style)
    for problem in muon:
        scores.add_column(problem.replace("-", " "), overflow="fold", justify="right")
    scores.add_column("mean", min_width=6)
    scores.add_column("min")
    asks = Table(Column("experiment", no_wrap=True), "question", "answer", **style)
    by_name = {name: ratios(experiment, muon) for name, experiment in experiments.items()}
    for name in sorted(by_name, key=lambda name: mean_ratio(by_name[name])):
        experiment, mean = experiments[name], mean_ratio(by_name[name])
        cells = [_cell(experiment, by_name[name], problem) for problem in muon]
        shown = f"{mean:.4f}" if math.isfinite(mean) else ""
        scores.add_row(name, *cells, shown, str(experiment.result.get("minutes", "")))
        asks.add_row(name, experiment.question, experiment.answer)
    caption = (
        "held-out loss over that of tuned Muon, by screening: seeds 0 to 2, settings of seed 0;\n"
        "with nothing tuned where networks were trained by a policy\n"
    )
    return Group(scores, caption, asks)


def _cell(experiment: Experiment, ratios: Mapping[str, float], problem: str) -> str:
    if problem not in ratios:
        return ""
    seeds = len(experiment.result["losses"][problem])
    return f"{ratios[problem]:.3f}" + (f" ({seeds})" if seeds < 3 else "")
