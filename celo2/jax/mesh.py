"""Sharded parameters: which mesh they are on, and Newton-Schulz of whole matrices, shared out.

Newton-Schulz needs matrices whole. Left to itself, the compiler lets every device repeat all of
them, or communicate in every product. Instead matrices of one shape are stacked, each device takes
some of the stack, and the results return to where their parameters lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.shard_alike import shard_alike
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from celo2.jax import newton_schulz
from celo2.rule import Spec


def mesh_of(tree: Any) -> AbstractMesh | None:
    """Return the mesh that arrays are on, as far as it is known while tracing; None: no mesh.

    With explicit axes the types of the arrays tell it; with automatic ones `jax.set_mesh`. Axes
    that are manual, as in `jax.shard_map`, leave local arrays: no mesh.
    """
    for leaf in jax.tree.leaves(tree):
        mesh = jax.typeof(leaf).sharding.mesh
        if AxisType.Explicit in mesh.axis_types:
            return mesh
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if mesh.size > 1 and set(mesh.axis_types) == {AxisType.Auto} else None


def automatic(
    f: Callable[..., Any], mesh: AbstractMesh | None, out_like: Any
) -> Callable[..., Any]:
    """Return f, free to shard what is in between, with outputs sharded as the arrays `out_like`.

    On an automatic mesh that is a hint, which the compiler need not follow; `out_shardings` of the
    jitted step are binding.
    """
    if mesh is not None and AxisType.Explicit in mesh.axis_types:
        shardings = jax.tree.map(lambda x: jax.typeof(x).sharding, out_like)
        return jax.sharding.auto_axes(f, out_sharding=shardings)

    def alike(*arguments: Any) -> Any:
        return jax.tree.map(lambda x, like: shard_alike(x, like)[0], f(*arguments), out_like)

    return f if mesh is None else alike


def orthogonalize(mesh: AbstractMesh, spec: Spec, matrices: Sequence[jax.Array]) -> list[jax.Array]:
    """Return Newton-Schulz of batches (N, m, n): each device takes some matrices of a shape."""
    groups: dict[Any, list[int]] = {}
    for i, x in enumerate(matrices):
        groups.setdefault((*sorted(x.shape[-2:]), x.dtype), []).append(i)
    result = list(matrices)
    for members in groups.values():
        stack = jnp.concatenate([_wide(matrices[i]) for i in members])
        stack, start = _orthogonalize_stack(mesh, spec, stack), 0
        for i in members:
            part = stack[start : start + len(matrices[i])]
            start = start + len(matrices[i])
            part = part if _is_wide(matrices[i]) else part.mT
            result[i] = shard_alike(part, matrices[i])[0]
    return result


def _orthogonalize_stack(mesh: AbstractMesh, spec: Spec, stack: jax.Array) -> jax.Array:
    count = len(stack)
    padding = -count % mesh.size
    stack = jnp.pad(stack, ((0, padding), (0, 0), (0, 0)))
    stack = jax.lax.with_sharding_constraint(stack, PartitionSpec(mesh.axis_names))
    stack = newton_schulz.orthogonalize(jnp, spec, stack)
    return jax.lax.with_sharding_constraint(stack, PartitionSpec(mesh.axis_names))[:count]


def _is_wide(x: jax.Array) -> bool:
    return x.shape[-2] <= x.shape[-1]


def _wide(x: jax.Array) -> jax.Array:
    return x if _is_wide(x) else x.mT
