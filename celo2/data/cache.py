"""The folder that data are kept in, and how a part of it is filled: completely or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from celo2.errors import InputError


def cache() -> Path:
    """Return the folder of all data: $CELO2_DATA, or celo2 in the user's cache folder.

    Raises:
        InputError: neither is known, as in a container whose user has no home directory.
    """
    chosen = os.environ.get("CELO2_DATA")
    if chosen:
        return Path(chosen)
    parent = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(parent) if parent else Path.home() / ".cache") / "celo2"
    except RuntimeError as error:
        raise InputError(
            "this user has no home directory to keep data in; set CELO2_DATA to a folder"
        ) from error


def filled(place: Path, fill: Callable[[Path], None]) -> Path:
    """Return the folder `place`, filled by `fill` if it does not exist yet.

    The files are written to a folder beside it, which is then renamed, so an interrupted or failed
    `fill` leaves nothing behind.
    """
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".part-") as folder:
            files = Path(folder) / "files"
            files.mkdir()
            fill(files)
            try:
                os.replace(files, place)
            except OSError:  # another process was faster
                if not place.exists():
                    raise
    return place
