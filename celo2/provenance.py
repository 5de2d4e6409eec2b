"""Which code made a result: commit, date, versions."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import celo2


def provenance(*packages: str) -> dict[str, Any]:
    """Return commit, date (UTC) and the versions of celo2, Python and the named packages."""
    versions = {"celo2": celo2.__version__, "python": platform.python_version()}
    for package in packages:
        versions[package] = importlib.metadata.version(package)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"commit": commit(Path(__file__).parent), "date": date, "versions": versions}


@functools.cache
def commit(package: Path) -> str:
    """Return the commit of a package's source, with "-dirty" where its files differ from it.

    "unknown" where no repository tracks the package: one installed into an environment inside a
    user's own repository is not of that repository.
    """
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        changed = _git(package, "status", "--porcelain", "--untracked-files=no", "--", ".")
        return _git(package, "rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
