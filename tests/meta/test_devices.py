"""Protects scale: one device, eight devices and two processes train the same theta."""

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest

from celo2 import InputError
from celo2.meta.checkpoint import theta_of
from celo2.meta.devices import Devices, use_cores

pytestmark = pytest.mark.slow

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
from tests.meta.settings import CONFIG, FAMILY
# Later, Adam makes large differences of small ones.
config = replace(CONFIG, outer_steps=4, warmup=2)
for metrics in outer.run(config, [FAMILY], Path(directory), every_seconds=0.0):
    pass
"""


def start(directory, devices, process=0, processes=1, port=0):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags}
    arguments = [
        sys.executable,
        "-c",
        SCRIPT,
        str(directory),
        *map(str, (devices, process, processes, port)),
    ]
    return subprocess.Popen(arguments, env=env, cwd=Path(__file__).parents[2])


@pytest.mark.distributed
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


def devices(call, **environment):
    """How many there are after `call`, on a machine of six cores."""
    six_cores = "import jax, joblib; joblib.cpu_count = lambda: 6"
    script = f"{six_cores}; from celo2.meta.devices import *; {call}"
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    }
    command = [sys.executable, "-c", f"{script}; print(jax.device_count())"]
    return int(
        subprocess.run(
            command, env={**env, **environment}, capture_output=True, text=True, check=True
        ).stdout
    )


@pytest.mark.parametrize(
    ("arguments", "expected"), [("24, 32", 4), ("12, 18", 6), ("7", 1), ("8, processes=4", 2)]
)
def test_each_core_is_a_device_as_far_as_trajectories_divide(arguments, expected):
    assert devices(f"use_cores({arguments})") == expected


def test_devices_that_are_there_are_kept():
    assert devices("use_cores(12)", XLA_FLAGS="--xla_force_host_platform_device_count=3") == 3
    assert devices("use_cores(12)", JAX_NUM_CPU_DEVICES="2") == 2
    assert devices("jax.devices(); use_cores(12)") == 1


def test_trajectories_that_do_not_divide_over_the_processes_are_refused():
    with pytest.raises(
        InputError, match="8 trajectories do not divide over 3 processes; give a multiple of 3"
    ):
        use_cores(8, processes=3)


def test_meta_training_by_command_uses_every_core(tmp_path):
    """Its first lines say so, before anything is compiled; then it is stopped."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    }
    command = [
        sys.executable,
        "-m",
        "celo2.cli",
        "meta-train",
        "--trajectories",
        str(joblib.cpu_count()),
        "--out",
        str(tmp_path),
    ]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as run:
        said = " ".join(itertools.islice((line.strip() for line in run.stdout), 2))
        run.kill()
    assert f"; {joblib.cpu_count()} device" in said


def test_trajectories_that_do_not_divide_over_the_devices_are_refused():
    with pytest.raises(
        InputError, match="12 trajectories do not divide over 8 devices; give a multiple of 8"
    ):
        Devices(12)
