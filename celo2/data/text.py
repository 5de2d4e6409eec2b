"""Text as bytes: the Python standard library's source, which is on every machine, or a file of the user's."""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celo2.errors import InputError

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
        """Of all its bytes."""
        return hashlib.sha256(self.train.tobytes() + self.held_out.tobytes()).hexdigest()


def standard_library() -> Text:
    """Source of the standard library without its tests; every tenth file is held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(
        path
        for path in root.rglob("*.py")
        if not EXCLUDED.intersection(path.relative_to(root).parts)
    )
    every = round(1 / HELD_OUT)
    held_out = [path for i, path in enumerate(paths) if i % every == 0]
    train = [path for i, path in enumerate(paths) if i % every]
    return Text(
        "Python standard library",
        *(_bytes(b"\n".join(path.read_bytes() for path in part)) for part in (train, held_out)),
    )


def from_file(path: Path) -> Text:
    """A user's file of any encoding; its last tenth is held out.

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
    """Random windows (size, context + 1), int64."""
    starts = generator.integers(len(data) - context - 1, size=size)
    return data[starts[:, None] + np.arange(context + 1)].astype(np.int64)


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)
