"""What the numbers of a benchmark were measured with, and how they are kept."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

import celo2
from celo2.files import write
from celo2.theta import load_theta


def provenance() -> dict[str, Any]:
    """Return versions, machine, and a digest of the sources measured, the script's included."""
    package = Path(celo2.__file__).parent
    sources = hashlib.sha256()
    for path in sorted([*package.glob("*.py"), *package.glob("torch/*.py"), Path(sys.argv[0])]):
        sources.update(path.read_bytes())
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "celo2": celo2.__version__,
        "theta": load_theta("celo2").identity,
        "sources_sha256": sources.hexdigest(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def cpu_name() -> str:
    """As the system calls it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def save(path: Path, content: dict[str, Any]) -> None:
    """Write JSON in one go, so that there is never half a file."""
    write(path, (json.dumps(content, indent=1) + "\n").encode())
