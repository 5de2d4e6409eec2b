"""`celo2 report`: the tables of README.md and docs, from the records."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rich.console import Console


@dataclasses.dataclass(frozen=True)
class Report:
    """Write the tables of README.md and docs/*.md from the records of a checkout.

    The best learning rates of the recorded sweep, at which `celo2 train` runs, are written too.
    """

    root: Path = Path()
    """Folder of the checkout."""
    page: Path | None = None
    """Also write the benchmark's report, one HTML file, to this path."""
    records: Path | None = None
    """Folder of the benchmark's runs.jsonl that the page is made from, such as runs/benchmark of
    `celo2 bench`; by default records/benchmark of the checkout. The tables stay those of the
    checkout."""

    def __call__(self, console: Console) -> None:
        """Write what changed, and say what it was."""
        from celo2.evaluate.page import write_page
        from celo2.evaluate.report import update

        changed = update(self.root)
        for path in changed:
            console.print(f"wrote {path}")
        if not changed:
            console.print("every table agrees with the records")
        if self.page is not None:
            write_page(self.page, self.root, self.records)
            console.print(f"wrote {self.page}")
