"""Run a script as the ranks of one process group."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_ranks(size, *arguments, timeout, **variables):
    """Run Python with these arguments in `size` processes, all of which have to exit with 0.

    `variables` are added to their environment. No process outlives the call, whichever of them
    fails or hangs.
    """
    environment = {
        **os.environ,
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": str(ROOT),
        **variables,
    }
    command = [sys.executable, *map(str, arguments)]
    processes = []
    with contextlib.ExitStack() as stack:
        for rank in range(size):
            own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = subprocess.Popen(
                command, cwd=ROOT, env=own, stderr=subprocess.PIPE, text=True
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        errors = [process.communicate(timeout=timeout)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * size, errors
