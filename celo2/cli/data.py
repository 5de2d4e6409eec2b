"""`celo2 data`: what there is, fetching it, checking it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from celo2.data import street
from celo2.data.images import SOURCES, check, fetched, load
from celo2.data.packages import cache
from celo2.errors import InputError

STREET = "street-digits"
NAMES = (*SOURCES, STREET)


def show_list(console: Console) -> None:
    """A table of all sets: where each comes from, and whether it is here."""
    table = Table("name", "from", "here", "licence", caption=f"kept in {cache()}")
    for name, source in SOURCES.items():
        package = source.package
        if package is None:
            table.add_row(name, "your own copy, by --path", "", "")
        else:
            table.add_row(name, f"{package.registry} {package.name}", "yes" if fetched(name) else "no", package.licence)
    table.add_row(STREET, "made here, of type faces over photos", "yes" if street.made() else "no", "own")
    console.print(table)


def get(name: str, console: Console) -> None:
    """Fetch or make one set; what is here already is not fetched again.

    Raises:
        InputError: unknown name, or the set cannot be had.
    """
    _known(name)
    if name == STREET:
        bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*bar, console=console) as progress:
            task = progress.add_task(name, total=street.COUNT)
            for made in street.make():
                progress.update(task, completed=made)
        console.print(f"{name}: {street.COUNT} images", highlight=False)
        return
    with console.status(f"fetching {name}"):
        data = load(name)
    console.print(f"{name}: {len(data.train.labels)} + {len(data.held_out.labels)} images", highlight=False)


def check_all(names: tuple[str, ...], path: Path | None, console: Console) -> None:
    """Check the sets named, or all that are here, against the published md5 of their raw data.

    Raises:
        InputError: one differs; or `path` is given for other than one set.
    """
    for name in names:
        _known(name)
    if path is not None and len(names) != 1:
        raise InputError(f"--path {path} is the folder of one set; name the one")
    for name in names or [name for name in SOURCES if fetched(name)]:
        if name == STREET:
            console.print(f"{name}: {'whole' if street.made() else 'not made yet'}", highlight=False)
            continue
        compared = check(name, path)
        console.print(f"{name}: {f'{compared} md5 agree' if compared else 'readable; no md5 published'}", highlight=False)


def _known(name: str) -> None:
    if name not in NAMES:
        raise InputError(f"unknown data set {name!r}: take one of {', '.join(NAMES)}")
