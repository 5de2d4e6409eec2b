"""`scale_by_celo2`: the learned rule as an optax transformation of one update per leaf."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo2 import rule
from celo2.errors import InputError
from celo2.parameters.state import ParameterState, join, moment_shapes, pack, unpack
from celo2.parameters.views import MatrixAxes, MatrixView, matrix_views
from celo2.rule import Spec, Weights
from celo2.theta import Theta, load_theta

Axes = MatrixAxes | Any | Callable[[Any], Any] | None
"""One `MatrixAxes` for all leaves, a tree with one per leaf (or None: by default) or a prefix of
such a tree, or a function from the parameters to one."""


class ScaleByCelo2State(NamedTuple):
    """State of `scale_by_celo2`: trees like the parameters, in float32 or wider.

    The first four are described in `celo2.parameters.state`.
    """

    momentum: Any
    second_moment: Any
    row_moments: Any
    column_moments: Any
    skipped: jax.Array
    """Number of gradients, leaf by leaf, that were not finite and were skipped; int32."""
    pushed: jax.Array
    """Number of updates, matrix by matrix, that the guard has pushed; int32."""


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What the update of every leaf has in common."""

    spec: Spec
    weights: Weights
    orthogonalize: bool
    skip_zero_gradients: bool
    guard: Any


def scale_by_celo2(
    theta: str | os.PathLike[str] | Theta = "celo2",
    *,
    orthogonalize: bool | None = None,
    axes: Axes = None,
    skip_zero_gradients: bool = True,
    guard: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Transform gradients into updates of RMS 1 by the learned rule of Celo2.

    They are to be scaled by a learning rate and subtracted.

    Args:
        theta: name of a theta that ships with the package, path of a theta file, or a `Theta`.
        orthogonalize: apply Newton-Schulz to matrices; None: as theta was meta-trained.
        axes: the axes that form the matrices of each leaf. None: a leaf of four or more axes is a
            convolution kernel (taps..., in, out), one matrix (taps * in, out); of any other leaf
            the last two axes are the matrix, (..., in, out).
        skip_zero_gradients: leave a matrix whose gradient is exactly zero where it is, with its
            running statistics. False: its momentum still updates it, at full RMS.
        guard: least cosine, between 0 and 1 (a number or a traced array), of the update of a matrix
            and its momentum of decay 0.9: an update below it is pushed along the momentum by the
            least amount that restores it, and training converges whatever theta does
            (docs/guarantee.md). None: no guard.

    Returns:
        A transformation whose `update` needs `params`. Updates keep the dtype of the gradients. A
        leaf whose gradient is not finite gets a zero update and its state stays as it was.
        `update(..., weights=Weights(...))` takes other learned numbers for that call, which may be
        traced, differentiated and batched.

    Raises:
        InputError: no such theta, or a guard out of range; in `init` and `update`, leaves that are
            not real floats or axes that do not fit; in `update`, `params` is None.
    """
    theta = theta if isinstance(theta, Theta) else load_theta(theta)
    spec = theta.spec
    orthogonalize = spec.newton_schulz if orthogonalize is None else orthogonalize
    rule.check_kappa(guard)

    def init(params: Any) -> ScaleByCelo2State:
        states = jax.tree.map(partial(_init_leaf, spec), params, _axes_tree(axes, params))
        trees = _unzip(params, states, len(ParameterState._fields))
        return ScaleByCelo2State._make([*trees, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)])

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        weights: Weights = theta.weights,
        **extra: Any,
    ) -> tuple[Any, ScaleByCelo2State]:
        del extra
        if params is None:
            raise InputError(
                "params is None, but the Celo2 rule reads the weights; "
                "call update(grads, state, params)"
            )
        arrays = Weights(*map(jnp.asarray, weights))
        shared = _Rule(spec, arrays, orthogonalize, skip_zero_gradients, guard)
        update_leaf = partial(_update_leaf, shared)
        *trees, skipped, pushed = state
        results = jax.tree.map(update_leaf, updates, params, _axes_tree(axes, params), *trees)
        steps, finite, pushes, *trees = _unzip(updates, results, 3 + len(ParameterState._fields))
        for is_finite, count in zip(jax.tree.leaves(finite), jax.tree.leaves(pushes), strict=True):
            skipped, pushed = skipped + ~is_finite, pushed + count
        return steps, ScaleByCelo2State._make([*trees, skipped, pushed])

    return optax.GradientTransformationExtraArgs(init, update)


def default_axes(shape: tuple[int, ...]) -> MatrixAxes:
    """Return the reading of a leaf of which nothing is stated; see `scale_by_celo2`."""
    if len(shape) < 4:
        return MatrixAxes()
    return MatrixAxes(fan_in=tuple(range(len(shape) - 1)), fan_out=-1)


def as_float(x: Any) -> jax.Array:
    """Return a leaf in float32, or in float64 if it has that already; Python floats are taken too.

    Raises:
        InputError: the leaf is not of real floats.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(
            f"a leaf of shape {x.shape} is of {x.dtype}; only real floats can be optimized, "
            "so mask or split it"
        )
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _axes_tree(axes: Axes, params: Any) -> Any:
    """Return one `MatrixAxes` per leaf; `axes` may be a prefix tree, and leaves may be masked."""
    axes = axes(params) if callable(axes) else axes

    def expand(stated: MatrixAxes | None, subtree: Any) -> Any:
        return jax.tree.map(lambda p: stated or default_axes(jnp.shape(p)), subtree)

    def is_leaf(x: Any) -> bool:
        return x is None or isinstance(x, MatrixAxes)

    return jax.tree.map(expand, axes, params, is_leaf=is_leaf)


def _unzip(tree: Any, results: Any, count: int) -> list[Any]:
    """Turn a tree with a tuple of `count` at each leaf of `tree` into `count` trees."""
    structure = jax.tree.structure(tree)
    tuples = structure.flatten_up_to(results)
    trees = []
    for i in range(count):
        trees.append(structure.unflatten([each[i] for each in tuples]))
    return trees


def _init_leaf(spec: Spec, p: Any, axes: MatrixAxes) -> ParameterState:
    second_moment = jnp.zeros_like(as_float(p))
    momentum = jnp.stack([second_moment for _ in spec.momentum_decays])
    views = matrix_views(second_moment.shape, axes)
    rows, columns = moment_shapes(spec, views, second_moment, jnp)
    dtype = second_moment.dtype
    return ParameterState(
        momentum, second_moment, jnp.zeros(rows, dtype), jnp.zeros(columns, dtype)
    )


def _update_leaf(shared: _Rule, g: Any, p: Any, axes: MatrixAxes, *arrays: Any) -> tuple[Any, ...]:
    """Return (update, whether its gradient was finite, pushed matrices, the new state)."""
    g, old = jnp.asarray(g), ParameterState(*arrays)
    if g.size == 0:
        return g, jnp.array(True), jnp.zeros((), jnp.int32), *old
    wide_g, wide_p = as_float(g), as_float(p)
    finite = jnp.isfinite(wide_g).all()
    wide_g = jnp.where(finite, wide_g, 0)
    views = matrix_views(g.shape, axes)
    steps, accumulators, pushes = [], [], jnp.zeros((), jnp.int32)
    with jax.default_matmul_precision("highest"):
        for view, before in zip(views, unpack(jnp, views, old), strict=True):
            step, after, pushed = _update_matrices(shared, view, before, wide_g, wide_p)
            steps.append(step)
            accumulators.append(after)
            pushes = pushes + jnp.sum(pushed & finite)
    new = pack(jnp, views, accumulators)
    kept = [jnp.where(finite, after, before) for after, before in zip(new, old, strict=True)]
    update = jnp.where(finite, join(jnp, views, steps), 0).astype(g.dtype)
    return update, finite, pushes, *kept


def _update_matrices(
    shared: _Rule, view: MatrixView, before: rule.Accumulators, g: Any, p: Any
) -> tuple[Any, rule.Accumulators, Any]:
    g, p = view.view(jnp, g), view.view(jnp, p)
    orthogonalize = rule.orthogonalize if shared.orthogonalize and not view.is_vector else None
    active = rule.has_gradient(jnp, g) if shared.skip_zero_gradients else None
    arguments = jnp, shared.spec, shared.weights, before, g, p, orthogonalize
    if shared.guard is not None:
        return rule.guarded_update(*arguments, shared.guard, active)
    return *rule.update(*arguments, active), jnp.zeros((), bool)
