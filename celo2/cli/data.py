"""`celo2 data`: list, fetch or make, and check the data sets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from celo2.cli.terminal import progress
from celo2.errors import InputError

STREET = "street-digits"


@dataclasses.dataclass(frozen=True)
class Data:
    """List, fetch or check the data sets."""

    action: Annotated[Literal["list", "get", "check"], tyro.conf.Positional]
    """list: what there is; get NAME...: fetch or make; check [NAME...]: compare with the published
    data."""
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Data sets."""
    path: Path | None = None
    """Folder of your own copy of the one set to check."""

    def __call__(self, console: Console) -> None:
        """Do it."""
        for name in self.names:
            _check_name(name)
        if self.action == "list":
            console.print(_table())
        elif self.action == "check":
            _check(self.names, self.path, console)
        else:
            if not self.names:
                raise InputError(f"data get needs a name; take some of {', '.join(_names())}")
            for name in self.names:
                _get(name, console)


def _names() -> tuple[str, ...]:
    from celo2.data.sources import SOURCES

    return *SOURCES, STREET


def _check_name(name: str) -> None:
    if name not in _names():
        raise InputError(f"unknown data set {name!r}: take one of {', '.join(_names())}")


def _table() -> Table:
    """Return a table of all sets: where each comes from, and whether it is here."""
    from celo2.data.cache import cache
    from celo2.data.images import fetched
    from celo2.data.sources import SOURCES
    from celo2.data.synthetic import street

    table = Table("name", "from", "here", "license", caption=f"kept in {cache()}")
    for name, source in SOURCES.items():
        fallback = source.fallback
        package = f", or {fallback.package.registry} {fallback.package.name}" if fallback else ""
        here = "yes" if fetched(name) else "no"
        table.add_row(name, f"{source.files.url}{package}", here, source.license)
    here = "yes" if street.made() else "no"
    table.add_row(STREET, "made here, of type faces over photos", here, "own")
    return table


def _get(name: str, console: Console) -> None:
    """Fetch or make one set; what is here already is not fetched again."""
    from celo2.data.images import load
    from celo2.data.synthetic import street

    if name == STREET:
        with progress(console, name, street.COUNT) as update:
            for made in street.make():
                update(completed=made)
        console.print(f"{name}: {street.COUNT} images")
        return
    with console.status("fetching"):
        data = load(name)
    console.print(f"{name}: {len(data.train.labels)} + {len(data.held_out.labels)} images")


def _check(names: tuple[str, ...], path: Path | None, console: Console) -> None:
    """Compare the sets named, or all that are here, with the published ones.

    Raises:
        InputError: one differs; or `path` is given for other than one set.
    """
    from celo2.data.images import check, fetched
    from celo2.data.sources import SOURCES
    from celo2.data.synthetic import street

    if path is not None and len(names) != 1:
        raise InputError(f"path {path} is the folder of one set; name the one")
    for name in names or [name for name in SOURCES if fetched(name)]:
        if name == STREET:
            console.print(f"{name}: {'complete' if street.made() else 'not made yet'}")
            continue
        compared = check(name, path)
        found = f"{compared} parts are as published" if compared else "readable"
        console.print(f"{name}: {found}")
