"""Files that are never half-written: replaced at once, or JSON lines that processes share."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from celo2.errors import InputError


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace the content of a file at once; a reader sees the old content or the new one.

    Missing folders are created. Through a symbolic link, the file that it points to is replaced.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two writers apart, and the same folder keeps the rename on one disk.
    temporary = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Replace a file by `value` as indented JSON."""
    write(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Replace a file by arrays, as an npz archive."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    write(path, content.getvalue())


def read_arrays(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """Read all arrays of an npz archive.

    Raises:
        InputError: the file is anything else, or cut; the message ends with `remedy`.
    """
    try:
        # NumPy would leave a damaged file open if it opened the file itself.
        with path.open("rb") as file, np.load(file) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}); {remedy}") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines, one object per line; a file that does not exist has none.

    A last line without its newline was cut when its process stopped, so it is left out;
    `append_line` removes it from the file.

    Raises:
        InputError: the file is not UTF-8, or a line is not a JSON object.
    """
    whole, _, _ = (path.read_bytes() if path.exists() else b"").rpartition(b"\n")
    try:
        lines = whole.decode().split("\n") if whole else []
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error}); delete it or name another file") from None
    return [_parse(path, number, line) for number, line in enumerate(lines, start=1)]


def append_line(
    path: Path, record: dict[str, Any], unless: Callable[[], bool] = lambda: False
) -> None:
    """Append one JSON line, unless a condition holds that other processes may have brought about.

    The file is locked against other calls while the condition is tested and the line is written.
    """
    import fcntl  # POSIX only, and only this function needs it

    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
        if unless():
            return
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)  # drop a last line that was cut
        file.write(line)


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"line {number} of {path} is not JSON ({error}); delete that line"
        ) from None
    if not isinstance(record, dict):
        raise InputError(f"line {number} of {path} is not a JSON object; delete that line")
    return record
