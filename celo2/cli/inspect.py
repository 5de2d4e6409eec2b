"""`celo2 inspect`: what thetas do, as a table and as pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from celo2.errors import InputError

if TYPE_CHECKING:
    from celo2.evaluate.inspect.run import Watched
    from celo2.theta import Theta


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Show what thetas do: the sensitivity of the update to each feature, and pictures.

    Pictures of each theta go to a folder of its own: the response to each channel and the memory;
    with --run also the update beside those of other optimizers, singular values, hidden units and
    how often a guard would act.
    """

    thetas: Annotated[tuple[str, ...], tyro.conf.Positional] = ("celo2",)
    """Names of thetas that ship with the package, or paths of files."""
    run: bool = False
    """Also train a problem and measure every update, which takes minutes."""
    problem: str = "byte-lstm"
    """Of the validation suite, for --run."""
    steps: int = 200
    """Of the run."""
    learning_rate: float = 4e-3
    """Its peak."""
    seed: int = 1
    """Of weights and batches."""
    out: Path = Path("runs/inspect")
    """Folder of the pictures' folders."""

    def __call__(self, console: Console) -> None:
        """Print the tables and draw the pictures."""
        from celo2.evaluate.inspect.memory import memory
        from celo2.evaluate.inspect.pictures import draw_run, draw_theta
        from celo2.evaluate.inspect.response import responses
        from celo2.theta import load_theta

        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; give at least 1")
        thetas = list(map(load_theta, self.thetas))
        console.print(table(thetas))
        for source, theta in zip(self.thetas, thetas, strict=True):
            folder = self.out / Path(source).stem
            decays = theta.spec.momentum_decays
            paths = draw_theta(responses(theta), memory(theta), decays, folder)
            if self.run:
                watched = self._watch(theta)
                console.print(layers(watched))
                paths += draw_run(watched, theta.spec, f"{self.problem}, {theta.name}", folder)
            for path in paths:
                console.print(f"wrote {path}", soft_wrap=True)

    def _watch(self, theta: Theta) -> Watched:
        from celo2.evaluate.inspect.run import watch
        from celo2.evaluate.suites import VALIDATION, problem

        chosen = dataclasses.replace(problem(self.problem), steps=self.steps)
        multiplier = VALIDATION[self.problem].adamw_lr_multiplier
        settings = {"learning_rate": self.learning_rate, "adamw_lr_multiplier": multiplier}
        return watch(chosen, theta, settings, self.seed)


def table(thetas: Sequence[Theta]) -> Table:
    """Return one column per theta, the features to which any of them is most sensitive first."""
    from celo2.evaluate.inspect.sensitivity import sensitivity

    out = Table("feature", caption="mean derivative of the update, over the largest")
    columns, largest = [], {}
    for theta in thetas:
        out.add_column(theta.identity.replace("@", "\n@"))
        columns.append(sensitivity(theta))
        # Decays are a theta's own, so not every column has every feature.
        for name, value in columns[-1].items():
            largest[name] = max(largest.get(name, 0.0), abs(value))
    for name in sorted(largest, key=largest.__getitem__, reverse=True):
        cells = [f"{column[name]:+.2f}" if name in column else "" for column in columns]
        out.add_row(name, *cells)
    return out


GUARDS = (0.01, 0.1)
"""Whose rates are printed."""


def layers(watched: Watched) -> Table:
    """Return one row per matrix: mean cosines, and how often guards would have acted."""
    from celo2.evaluate.inspect.probe import COMPARED

    out = Table("matrix", *COMPARED, caption="mean cosine of the update; share pushed")
    for kappa in GUARDS:
        out.add_column(f"guard={kappa:g}")
    for name, probe in watched.probes.items():
        cells = [f"{cosine:.2f}" for cosine in probe.cosines.mean(0)]
        rates = [f"{100 * watched.guard_rate(kappa, name):.1f} %" for kappa in GUARDS]
        out.add_row(name, *cells, *rates)
    return out
