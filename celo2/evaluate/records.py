"""The runs that were made: one JSON line per run, found again by what decides its result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from celo2.errors import InputError
from celo2.files import append_line, read_lines
from celo2.theta import Theta

Run = Mapping[str, Any]
"""All that decides the result of a run (problem, optimizer, settings, seed ...), as JSON values."""


def key(run: Run) -> str:
    """Return what a run is found by; the order of its fields does not matter."""
    return json.dumps(run, sort_keys=True)


def theta_key(theta: Theta) -> str:
    """Return what stands for a theta in a run."""
    return theta.sha256[:16]


class Records:
    """A file of runs, `{"run": {...}, "loss": ...}` per line, that several processes may share.

    Of two lines for one run the first counts.

    Raises:
        InputError: the file is damaged (see `celo2.files.read_lines`), or a line has no run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[str, dict[str, Any]] = {}
        self._size = 0
        self._read()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._found.values())

    def find(self, run: Run) -> dict[str, Any] | None:
        """Return the record of a run, whichever process made it, or None."""
        if key(run) not in self._found:
            self._read()
        return self._found.get(key(run))

    def add(self, run: Run, result: Mapping[str, Any]) -> dict[str, Any]:
        """Append a result and return its record, or the one that another process made meanwhile."""
        content = {"run": dict(run), **result}
        append_line(self.path, content, unless=lambda: self.find(run) is not None)
        record = self.find(run)
        assert record is not None
        return record

    def _read(self) -> None:
        """Read what was appended since the last time."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size == self._size:
            return
        self._size, self._found = size, {}
        for number, record in enumerate(read_lines(self.path), start=1):
            if not isinstance(record.get("run"), dict):
                raise InputError(f"line {number} of {self.path} is no run; delete that line")
            self._found.setdefault(key(record["run"]), record)
