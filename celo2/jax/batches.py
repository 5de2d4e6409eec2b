"""The update of batches of matrices: on one device in place, on a mesh by whole matrices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from celo2 import rule
from celo2.jax import mesh
from celo2.jax.direction import Batch, direction
from celo2.jax.leaf import Leaf, write_leaf
from celo2.jax.newton_schulz import orthogonalize
from celo2.jax.tiles import largest_divisor, over_tiles, put, take
from celo2.parameters.state import ParameterState
from celo2.rule import Spec, Weights
from celo2.rule.guard import MOMENTUM, guarded

TILE = 1 << 16
"""Elements per tile on a CPU: the dozen arrays of a tile stay in its cache."""
ACCELERATOR_TILE = 1 << 24
"""The same elsewhere: a tile must fill the device."""

Result = tuple[jax.Array, Batch, jax.Array]
"""(update, batch with the new statistics, number of matrices that the guard pushed)"""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What the update of all matrices has in common."""

    spec: Spec
    weights: Weights
    orthogonalize: bool
    guard: Any
    """Least cosine of update and momentum; None: no guard."""

    def orthogonalizes(self, batch: Batch) -> bool:
        """Return whether Newton-Schulz applies: not to vectors."""
        return self.orthogonalize and len(batch.factored) > 1


def update_leaves(
    shared: Rule, leaves: Sequence[Leaf], devices: AbstractMesh | None
) -> tuple[list[tuple[jax.Array, ParameterState]], jax.Array]:
    """Return the update and the new state of each leaf, and how many updates the guard pushed."""
    batches = [batch for leaf in leaves for batch in leaf.batches]
    if devices is None:
        results = [update_in_place(shared, batch) for batch in batches]
    else:
        results = update_on_mesh(shared, batches, devices)
    rest, written = iter(results), []
    for leaf in leaves:
        own = [next(rest) for _ in leaf.batches]
        written.append(write_leaf(leaf, [u for u, _, _ in own], [batch for _, batch, _ in own]))
    return written, sum((pushed for _, _, pushed in results), jnp.zeros((), jnp.int32))


def update_in_place(shared: Rule, batch: Batch) -> Result:
    """Update one matrix after the other, or several small ones at once, in tiles.

    In a jitted step with donated buffers, the state and the gradient are overwritten; the one
    temporary of the size of a matrix is its direction.
    """
    tile = _tile()
    count, m, n = batch.g.shape
    together = count if tile is None else largest_divisor(count, tile // (m * n))

    def one_part(i: Any, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        averages, factored, updates, pushes = carry
        now = batch._replace(averages=averages, factored=factored, g=updates)
        d, part, moves = direction(shared.spec, shared.weights, now.part(i, together), tile)
        if shared.orthogonalizes(batch):
            d = orthogonalize(jnp, shared.spec, d, in_tiles=tile is not None)
        update, pushed = _finish(shared, part, d, moves)
        here = {-3: (i, together)}
        factored = tuple(put(x, y, here) for x, y in zip(factored, part.factored, strict=True))
        updates = put(updates, update, here)
        return part.averages, factored, updates, pushes + pushed

    zero = jnp.zeros((), jnp.int32)
    start = batch.averages, batch.factored, batch.g, zero
    averages, factored, updates, pushes = over_tiles(count // together, one_part, start)
    return updates, batch._replace(averages=averages, factored=factored), pushes


def update_on_mesh(shared: Rule, batches: Sequence[Batch], devices: AbstractMesh) -> list[Result]:
    """Update matrices that may be sharded: elements where they lie, whole matrices per device."""
    proposals, whole = [], []
    for batch in batches:
        proposals.append(direction(shared.spec, shared.weights, batch, None))
        if shared.orthogonalizes(batch):
            whole.append(proposals[-1][0])
    orthogonal = iter(mesh.orthogonalize(devices, shared.spec, whole))
    results = []
    for d, batch, moves in proposals:
        if shared.orthogonalizes(batch):
            d = next(orthogonal)
        update, pushed = _finish(shared, batch, d, moves)
        results.append((update, batch, pushed))
    return results


def _tile() -> int | None:
    """Return the elements per tile; None where arrays may be sharded, for all that is known.

    Tiles of a sharded axis would be gathered one after the other.
    """
    manual = jax.sharding.AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types
    if jax.device_count() > 1 and not manual:
        return None
    return TILE if jax.default_backend() == "cpu" else ACCELERATOR_TILE


def _finish(
    shared: Rule, batch: Batch, d: jax.Array, moves: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the update in the dtype of the gradient, and how many matrices the guard pushed."""
    if shared.guard is None:
        u, pushes = rule.normalize(jnp, shared.spec, d, moves), jnp.zeros((), jnp.int32)
    else:
        m = take(batch.averages[MOMENTUM], {-3: batch.here}).astype(d.dtype)
        u, pushed = guarded(jnp, shared.spec, d, m, shared.guard)
        pushes = jnp.sum(pushed & batch.active, dtype=jnp.int32)
        moves = batch.active
    # NaN of a matrix that does not move must not reach its parameter.
    return jnp.where(moves, u, 0).astype(batch.g.dtype), pushes
