"""`celo2 inspect`: the sensitivity of thetas to the features that they read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from celo2.theta import Theta


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Show the sensitivity of thetas: how their update responds to each odd feature."""

    thetas: Annotated[tuple[str, ...], tyro.conf.Positional] = ("celo2",)
    """Names of thetas that ship with the package, or paths of files."""

    def __call__(self, console: Console) -> None:
        """Print the table."""
        from celo2.theta import load_theta

        console.print(table([load_theta(theta) for theta in self.thetas]))


def table(thetas: Sequence[Theta]) -> Table:
    """Return one column per theta, the features to which any of them is most sensitive first."""
    from celo2.meta.sensitivity import sensitivity

    columns = [sensitivity(theta) for theta in thetas]
    headers = [theta.identity.replace("@", "\n@") for theta in thetas]
    out = Table("feature", *headers, caption="mean derivative of the update, over the largest")
    largest: dict[str, float] = {}
    for column in columns:  # decays are a theta's own, so not every column has every feature
        for name, value in column.items():
            largest[name] = max(largest.get(name, 0.0), abs(value))
    for name in sorted(largest, key=largest.__getitem__, reverse=True):
        out.add_row(name, *[f"{c[name]:+.2f}" if name in c else "" for c in columns])
    return out
