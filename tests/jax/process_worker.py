"""What each process of `test_processes.py` runs: steps of `celo2` on a mesh over all of them."""

import dataclasses
import functools
import os
import sys
from pathlib import Path

import jax
import numpy as np
import optax
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from celo2.jax import celo2
from tests.cases import POLICY, THETA, draw

LAYOUTS = {
    "rows.kernel": ((8, 16), P("process")),
    "columns.kernel": ((8, 16), P(None, "process")),
    "both.kernel": ((16, 8), P("local", "process")),
    "replicated.kernel": ((6, 10), P()),
    "experts.kernel": ((4, 6, 10), P(("process", "local"))),
    "embedding": ((12, 8), P("process", "local")),
    "bias": ((16,), P("process")),
}
"""Shapes, and which axes are sharded; the last two are AdamW's."""
KINDS = {"automatic": AxisType.Auto, "explicit": AxisType.Explicit}
STEPS = 3


def drawn():
    """Weights and gradients, the same in every process."""
    return {n: draw(shape, STEPS, seed) for seed, (n, (shape, _)) in enumerate(LAYOUTS.items())}


def train(place, **told):
    """Return the parameters after a few steps; `place` lays out weights and gradients."""
    optimizer = celo2(total_steps=8, theta=dataclasses.replace(THETA, policy=POLICY))

    @functools.partial(jax.jit, **told)
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    arrays = drawn()
    params = place({name: w for name, (w, _) in arrays.items()})
    state = optimizer.init(params)
    for i in range(STEPS):
        params, state = step(params, state, place({n: g[i] for n, (_, g) in arrays.items()}))
    return params


def on_mesh(kind, processes):
    """Train on a mesh whose first axis is the process."""
    sizes = processes, jax.local_device_count()
    mesh = jax.make_mesh(sizes, ("process", "local"), axis_types=(KINDS[kind],) * 2)
    shardings = {name: NamedSharding(mesh, spec) for name, (_, spec) in LAYOUTS.items()}
    told = {"out_shardings": (shardings, None)} if kind == "automatic" else {}
    with jax.set_mesh(mesh):
        params = train(lambda arrays: jax.device_put(arrays, shardings), **told)
    for name, p in params.items():
        assert p.sharding.is_equivalent_to(shardings[name], p.ndim), name
    return params


def main():
    folder, address = Path(sys.argv[1]), sys.argv[2]
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, size, rank, initialization_timeout=60)
    for kind in KINDS:
        params = process_allgather(on_mesh(kind, size), tiled=True)
        if rank == 0:
            np.savez(folder / kind, **params)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
