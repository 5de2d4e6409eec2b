"""The terminal: how text is printed, and how progress is shown, the same for all commands."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def terminal(stderr: bool = False) -> Console:
    """Return a console that prints text as it is: brackets in a user's names are no markup."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        # A sign that the terminal's encoding lacks must not end a command after hours of work.
        stream.reconfigure(errors="replace")
    return Console(stderr=stderr, soft_wrap=stderr, markup=False, emoji=False, highlight=False)


def mean_and_deviation(console: Console, mean: float, deviation: float) -> str:
    """Format a mean and its standard deviation over seeds, unless that is 0 or NaN."""
    if not deviation > 0:
        return f"{mean:.4f}"
    sign = "±" if console.encoding.startswith("utf") else "+-"
    return f"{mean:.4f} {sign} {deviation:.4f}"


@contextlib.contextmanager
def progress(console: Console, description: str, total: int) -> Iterator[Callable[..., Any]]:
    """Show a bar with an estimate of the time left.

    The function that is given updates it: `advance=1` or `completed=n`, and `description="..."`.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total)
        yield lambda **changes: bar.update(task, **changes)
