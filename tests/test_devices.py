"""Protects scale: one device, eight devices and two processes train the same theta."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from celo2 import InputError
from celo2.meta.checkpoint import theta_of
from celo2.meta.devices import Devices

SCRIPT = """
import sys
from pathlib import Path
import jax
directory, devices, process, processes, port = sys.argv[1], *map(int, sys.argv[2:])
if processes > 1:
    jax.distributed.initialize(f"localhost:{port}", processes, process)
assert jax.device_count() == devices * processes
from celo2.meta import outer
from dataclasses import replace
from tests.test_meta import CONFIG, FAMILY
config = replace(CONFIG, outer_iterations=4, warmup=2)  # later, Adam makes large differences of small ones
for metrics in outer.run(config, [FAMILY], Path(directory), every_seconds=0.0):
    pass
"""


def start(directory, devices, process=0, processes=1, port=0):
    env = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    arguments = [sys.executable, "-c", SCRIPT, str(directory), *map(str, (devices, process, processes, port))]
    return subprocess.Popen(arguments, env=env, cwd=Path(__file__).parents[1])


def test_one_device_eight_devices_and_two_processes_agree(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    runs = [
        start(tmp_path / "one", 1),
        start(tmp_path / "eight", 8),
        *(start(tmp_path / "processes", 2, process, 2, port) for process in (0, 1)),
    ]
    assert [run.wait(timeout=400) for run in runs] == [0] * 4
    one, *others = (theta_of(tmp_path / name)[0] for name in ("one", "eight", "processes"))
    for other in others:
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    ("flags", "trajectories", "devices"), [("", (24, 32), {1, 2, 4, 8}), ("", (7,), {1, 7}), ("3", (8,), {3})]
)
def test_each_core_is_a_device_unless_the_user_says_otherwise(flags, trajectories, devices):
    """As many as divide the trajectories: with 7 one alone, unless there are 7 cores."""
    script = f"import jax; from celo2.meta.devices import use_cores; use_cores(*{trajectories}); print(jax.device_count())"
    env = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={flags}" if flags else ""}
    made = int(subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True).stdout)
    assert made in devices
    assert flags or made == max(n for n in devices if n <= len(os.sched_getaffinity(0)))


def test_trajectories_that_do_not_divide_over_the_devices_are_refused():
    with pytest.raises(InputError, match="12 trajectories do not divide over 8 devices; give a multiple of 8"):
        Devices(12)
