"""Trajectories over devices and processes, by JAX's own sharding along one axis.

Theta and data are replicated. All that is communicated in an outer step is the sum of the
meta-gradients, 347 floats, and a few scalars.
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
    if (
        "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
        or "JAX_NUM_CPU_DEVICES" in os.environ
    ):
        return
    part = math.gcd(*trajectories) // processes
    cores = joblib.cpu_count()
    with contextlib.suppress(RuntimeError):  # JAX has its devices already
        jax.config.update(
            "jax_num_cpu_devices", max(n for n in range(1, cores + 1) if part % n == 0)
        )


class Devices:
    """All devices of all processes in a row.

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
        mesh = Mesh(np.array(devices), (AXIS,))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._spread = NamedSharding(mesh, PartitionSpec(AXIS))

    @property
    def processes(self) -> int:
        """How many work together."""
        return jax.process_count()

    def first_says(self, choice: bool) -> bool:
        """The first process's choice: clocks differ, and what follows takes all of them."""
        return (
            choice
            if self.processes == 1
            else bool(multihost_utils.broadcast_one_to_all(np.array(choice)))
        )

    def agree_on(self, value: Any, otherwise: str) -> None:
        """Raises InputError with the text `otherwise` if the processes hold different values."""
        if (
            self.processes > 1
            and len(np.unique(multihost_utils.process_allgather(np.asarray(value)))) > 1
        ):
            raise InputError(otherwise)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.processes > 1:
            multihost_utils.sync_global_devices("celo2")

    def replicate(self, tree: Any) -> Any:
        """`tree` on every device."""
        return jax.tree.map(lambda x: self._put(x, self._everywhere), tree)

    def spread(self, x: Any) -> jax.Array:
        """An array, its first axis over the devices."""
        return self._put(x, self._spread)

    def place(self, state: Any) -> Any:
        """An outer state, its trajectories spread, the rest on every device."""
        rest = self.replicate(state._replace(estimator=()))
        return rest._replace(estimator=jax.tree.map(self.spread, state.estimator))

    def gather(self, state: Any) -> Any:
        """The whole state in the memory of every process."""
        if jax.process_count() == 1:
            return jax.device_get(state)
        return multihost_utils.process_allgather(state, tiled=True)

    def _put(self, x: Any, sharding: NamedSharding) -> jax.Array:
        """Every process holds the whole of `x` and gives its devices their part."""
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
