"""Trajectories over devices and processes, by JAX's own sharding along one axis.

Theta and data are replicated. All that is communicated in an outer step is the sum of the
meta-gradients, one float per weight of theta, and a few scalars.
"""

from __future__ import annotations

import contextlib
import math
import os
from typing import Any

import jax
import joblib
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from celo2.errors import InputError

AXIS = "trajectories"


def cores() -> int:
    """Return the number of cores that this process may use.

    joblib knows of the quotas of cgroups, by which containers limit their cores; `os.cpu_count` and
    the affinity do not.
    """
    return joblib.cpu_count()


def use_cores(*trajectories: int, processes: int = 1) -> None:
    """Make a device of each core, as many as divide a process's part of the trajectories.

    XLA's own threads divide single products, which are too small here to gain by it, while a core
    with trajectories of its own is busy. A stated number of CPU devices (XLA_FLAGS,
    JAX_NUM_CPU_DEVICES) is respected, and so are the devices of a program that has used JAX
    before.

    Raises:
        InputError: trajectories do not divide over the processes.
    """
    for number in trajectories:
        if number % processes:
            raise InputError(
                f"{number} trajectories do not divide over {processes} processes; "
                f"give a multiple of {processes}"
            )
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" in flags or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    part = math.gcd(*trajectories) // processes
    count = max(n for n in range(1, cores() + 1) if part % n == 0)
    with contextlib.suppress(RuntimeError):  # JAX has its devices already
        jax.config.update("jax_num_cpu_devices", count)


class Devices:
    """All devices of all processes as one axis.

    Raises:
        InputError: the number of trajectories is not a multiple of the number of devices.
    """

    def __init__(self, trajectories: int) -> None:
        devices = jax.devices()
        if trajectories % len(devices):
            raise InputError(
                f"{trajectories} trajectories do not divide over {len(devices)} devices; "
                f"give a multiple of {len(devices)}, "
                "or on a CPU another number of devices by JAX_NUM_CPU_DEVICES"
            )
        # One axis is enough: trajectories do not talk to each other during an unroll.
        mesh = Mesh(np.array(devices), (AXIS,))
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._sharded = NamedSharding(mesh, PartitionSpec(AXIS))

    @property
    def processes(self) -> int:
        """Number of processes that work together."""
        return jax.process_count()

    def first_decides(self, choice: bool) -> bool:
        """Return the choice of the first process.

        Clocks differ, and all processes must join what follows.
        """
        if self.processes == 1:
            return choice
        # One byte; every process waits here for the first.
        return bool(multihost_utils.broadcast_one_to_all(np.array(choice)))

    def agree_on(self, value: Any, otherwise: str) -> None:
        """Check that all processes hold the same value.

        Raises:
            InputError: they do not; its message is `otherwise`.
        """
        if self.processes > 1:
            # All processes wait for each other, and each gets the values of all.
            values = multihost_utils.process_allgather(np.asarray(value))
            if len(np.unique(values)) > 1:
                raise InputError(otherwise)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.processes > 1:
            multihost_utils.sync_global_devices("celo2")

    def replicate(self, tree: Any) -> Any:
        """Put `tree` on every device."""
        return jax.tree.map(lambda x: self._put(x, self._replicated), tree)

    def shard(self, x: Any) -> jax.Array:
        """Shard an array over the devices along its first axis."""
        return self._put(x, self._sharded)

    def place(self, state: Any) -> Any:
        """Shard the trajectories of an outer state and replicate the rest."""
        # Theta and the state of its optimizer are some kilobytes, so every device has them.
        # Networks in training and their accumulators are most of the memory; each is on one device.
        rest = self.replicate(state._replace(estimator=()))
        return rest._replace(estimator=jax.tree.map(self.shard, state.estimator))

    def gather(self, state: Any) -> Any:
        """Return the whole state in the memory of every process."""
        if self.processes == 1:
            return jax.device_get(state)
        # All trajectories travel to all processes, to be saved by the first. This is the only time
        # that networks are communicated.
        return multihost_utils.process_allgather(state, tiled=True)

    def _put(self, x: Any, sharding: NamedSharding) -> jax.Array:
        """Give this process's devices their part of `x`, which every process holds as a whole."""
        # Each device is sent its slice alone, from the memory of its own process.
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
