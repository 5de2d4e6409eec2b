"""The terminal: how text is printed, and how progress is shown, the same for all commands."""

from __future__ import annotations

import contextlib
import datetime
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


INTERVAL = 30.0
"""Seconds between two lines of progress where no bar can be shown."""


@contextlib.contextmanager
def progress(console: Console, description: str, total: int) -> Iterator[Callable[..., Any]]:
    """Show a bar with an estimate of the time left; in a file or a pipe, print a line now and then.

    The function that is given updates it: `advance=1` or `completed=n`, and `description="..."`.
    """
    if not console.is_interactive:
        lines = _Lines(console, description, total)
        try:
            yield lines.update
        finally:
            lines.end()
        return
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


class _Lines:
    """Progress as plain lines: at the start, at the end, and at most every `INTERVAL` seconds."""

    def __init__(self, console: Console, description: str, total: int) -> None:
        self.console, self.description, self.total = console, description, total
        self.completed = 0
        self.began = console.get_time()
        self._print()

    def update(
        self, advance: int = 0, completed: int | None = None, description: str | None = None
    ) -> None:
        """Change what is given, and print it unless the last line is recent."""
        self.completed = self.completed + advance if completed is None else completed
        self.description = self.description if description is None else description
        if self.console.get_time() - self.printed >= INTERVAL:
            self._print()

    def end(self) -> None:
        """Print what no line has told yet."""
        if self.told != (self.completed, self.description):
            self._print()

    def _print(self) -> None:
        self.printed = self.console.get_time()
        self.told = self.completed, self.description
        elapsed = datetime.timedelta(seconds=round(self.printed - self.began))
        done = f"{self.completed} of {self.total} after {elapsed}"
        self.console.print(f"{done}: {self.description}", markup=False, soft_wrap=True)
