"""Celo2 for JAX, as optax transformations: `celo2` in the place of `optax.adamw`. Needs jax and optax alone, no PyTorch.

Leaves of two and more axes are (..., in, out): each matrix of a batch gets the rule by itself. Where a library keeps
(out, in), as equinox does, say so in `axes`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo2 import rule
from celo2.errors import InputError
from celo2.parameters.routing import ADAMW, CELO2, Routing, by_names_and_shapes, check_rule
from celo2.parameters.state import ParameterState, join, moment_shapes, pack, unpack
from celo2.parameters.views import MatrixAxes, matrix_views
from celo2.rule import Weights
from celo2.rule.spec import Spec
from celo2.theta import Theta, load_theta

__all__ = ["MatrixAxes", "ScaleByCelo2State", "celo2", "route", "scale_by_celo2"]

Axes = MatrixAxes | Any | Callable[[Any], Any] | None
"""One `MatrixAxes` for all leaves, a tree with one for each leaf of the parameters, or a function from them to such a tree."""


class ScaleByCelo2State(NamedTuple):
    """State of `scale_by_celo2`: trees like the parameters, float32 whatever they are (see `celo2.parameters.state`)."""

    momentum: Any
    second_moment: Any
    row_moments: Any
    column_moments: Any
    skipped: jax.Array
    """How many gradients (leaf by leaf) were not finite and were skipped; int32."""


def scale_by_celo2(
    theta: str | os.PathLike[str] | Theta = "celo2", *, orthogonalize: bool | None = None, axes: Axes = None
) -> optax.GradientTransformationExtraArgs:
    """Turn gradients into steps of RMS 1 by the Celo2 rule; to be scaled by a learning rate and subtracted.

    Args:
        theta: name of a theta that ships with the package, path of a theta file, or a `Theta`.
        orthogonalize: Newton-Schulz on matrices; None: as theta was meta-trained.
        axes: where the matrices of each leaf are; None: the last two axes, (..., in, out).

    Returns:
        A transformation whose `update` needs `params`. Updates keep the dtype of the gradients. A leaf whose gradient is
        not finite gets a zero update and its accumulators stay as they were. `update(..., weights=Weights(...))` takes
        other learned numbers for that call, which may be traced, differentiated and batched.

    Raises:
        InputError: no such theta; in `init` and `update`, leaves that are complex or axes that do not fit; in `update`,
            `params` is None.
    """
    theta = theta if isinstance(theta, Theta) else load_theta(theta)
    orthogonalized = theta.spec.newton_schulz if orthogonalize is None else orthogonalize

    def init(params: Any) -> ScaleByCelo2State:
        states = jax.tree.map(functools.partial(_init_leaf, theta.spec), params, _axes_tree(axes, params))
        return ScaleByCelo2State._make([*_unzip(params, states, len(ParameterState._fields)), jnp.zeros((), jnp.int32)])

    def update(
        updates: Any, state: Any, params: Any = None, *, weights: Weights = theta.weights, **extra: Any
    ) -> tuple[Any, ScaleByCelo2State]:
        del extra
        if params is None:
            raise InputError("params is None, but the Celo2 rule reads the weights; call update(grads, state, params)")
        one = functools.partial(_update_leaf, theta.spec, Weights(*map(jnp.asarray, weights)), orthogonalized)
        *trees, skipped = state
        outcomes = jax.tree.map(one, updates, params, _axes_tree(axes, params), *trees)
        steps, finite, *trees = _unzip(updates, outcomes, 2 + len(ParameterState._fields))
        skipped = sum((~f for f in jax.tree.leaves(finite)), start=skipped)
        return steps, ScaleByCelo2State._make([*trees, skipped])

    return optax.GradientTransformationExtraArgs(init, update)


def celo2(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.0,
    adamw_lr_multiplier: float = 20.0,
    theta: str | os.PathLike[str] | Theta = "celo2",
    orthogonalize: bool | None = None,
    labels: Any = None,
    axes: Axes = None,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """The learned optimizer Celo2: its rule on hidden matrices, AdamW on vectors and what is named an embedding or a head.

    A leaf whose gradient is not finite stays where it is for that step, as do its accumulators.

    Args:
        learning_rate: RMS of a step of every matrix; a number or an optax schedule.
        weight_decay: decoupled, on both rules.
        adamw_lr_multiplier: rate of AdamW over `learning_rate`; 20 in the paper.
        theta: name of a theta that ships with the package, path of a theta file, or a `Theta`.
        orthogonalize: Newton-Schulz on (Celo2) or off (Celo2-base: the rule alone, on every leaf); None: as theta was
            meta-trained.
        labels: tree of "celo2" and "adamw" with the parameters' structure (or a prefix of it), or a function from the
            parameters to one; None: by name and shape (see `route`).
        axes: as of `scale_by_celo2`.
        b1: first decay of AdamW.
        b2: second decay of AdamW.
        eps: of AdamW.

    Raises:
        InputError: a number out of range, no such theta.
    """
    theta = theta if isinstance(theta, Theta) else load_theta(theta)
    everywhere = theta.spec.everywhere if orthogonalize is None else not orthogonalize
    numbers = {"learning_rate": learning_rate, "weight_decay": weight_decay, "adamw_lr_multiplier": adamw_lr_multiplier}
    for name, value in numbers.items():
        if isinstance(value, int | float) and not value >= 0:
            raise InputError(f"{name} is {value}; it must not be below 0")

    def adamw_rate(count: Any) -> Any:
        return adamw_lr_multiplier * (learning_rate(count) if callable(learning_rate) else learning_rate)

    def by_route(params: Any) -> Any:
        rules = iter(route(params, everywhere))
        return jax.tree.map(lambda _: next(rules).rule, params)

    hidden = optax.chain(
        scale_by_celo2(theta, orthogonalize=orthogonalize, axes=axes),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    rest = optax.chain(
        _kept_where_not_finite(optax.scale_by_adam(b1, b2, eps)),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(adamw_rate),
    )
    transforms: dict[Hashable, optax.GradientTransformation] = {
        CELO2: _still_where_not_finite(hidden),
        ADAMW: _still_where_not_finite(rest),
    }
    return optax.partition(transforms, _checked(by_route if labels is None else labels))


def route(params: Any, everywhere: bool = False) -> Routing:
    """Who moves which leaf, and why, by the names on its path and its shape; `everywhere`: the rule on all (Celo2-base)."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    routes = by_names_and_shapes([(_dotted(path), jnp.shape(leaf)) for path, leaf in leaves])
    if everywhere:
        routes = [dataclasses.replace(r, rule=CELO2, why=f"Celo2-base moves everything ({r.why})") for r in routes]
    return Routing(routes)


def _dotted(path: Any) -> str:
    """A key path as a dotted name; nnx and equinox wrap values in attributes that say nothing."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def _checked(labels: Any) -> Any:
    """The labels, or a function that gives them; an unknown label is told at once."""

    def check(tree: Any) -> Any:
        for label in jax.tree.leaves(tree):
            check_rule(label)
        return tree

    return (lambda params: check(labels(params))) if callable(labels) else check(labels)


def _still_where_not_finite(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`inner`, but a leaf whose gradient is not finite gets a zero update (no weight decay either)."""
    with_extra = optax.with_extra_args_support(inner)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        new, state = with_extra.update(updates, state, params, **extra)
        return jax.tree.map(lambda u, g: jnp.where(jnp.isfinite(g).all(), u, jnp.zeros_like(u)), new, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _kept_where_not_finite(adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """Adam in float32, but the moments of a leaf whose gradient is not finite stay as they were.

    Its bias correction counts the step all the same: optax keeps one count for all leaves.
    """

    def init(params: Any) -> Any:
        return adam.init(jax.tree.map(_wide, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        steps, moved = adam.update(jax.tree.map(_wide, updates), state, params)
        new: Any = moved
        finite = jax.tree.map(lambda g: jnp.isfinite(g).all(), updates)

        def keep(after: Any, before: Any) -> Any:
            return jax.tree.map(jnp.where, finite, after, before)

        kept = new._replace(mu=keep(new.mu, state.mu), nu=keep(new.nu, state.nu))
        return jax.tree.map(lambda step, g: step.astype(g.dtype), steps, updates), kept

    return optax.GradientTransformation(init, update)


def _axes_tree(axes: Axes, params: Any) -> Any:
    """One `MatrixAxes` for each leaf of the parameters; `axes` may be a prefix of their tree, and leaves may be masked."""
    axes = axes(params) if callable(axes) else axes

    def spread(stated: MatrixAxes | None, subtree: Any) -> Any:
        return jax.tree.map(lambda _: stated or MatrixAxes(), subtree)

    return jax.tree.map(spread, axes, params, is_leaf=lambda x: x is None or isinstance(x, MatrixAxes))


def _unzip(tree: Any, outcomes: Any, count: int) -> list[Any]:
    """A tree with a tuple of `count` at each leaf of `tree`, as `count` trees."""
    treedef = jax.tree.structure(tree)
    columns = zip(*treedef.flatten_up_to(outcomes), strict=True) if treedef.num_leaves else [()] * count
    return [treedef.unflatten(column) for column in columns]


def _init_leaf(spec: Spec, p: Any, axes: MatrixAxes) -> ParameterState:
    second_moment = _wide(jnp.zeros_like(p))
    momentum = jnp.stack([second_moment for _ in spec.momentum_decays])
    moments = moment_shapes(spec, matrix_views(p.shape, axes), second_moment, jnp)
    return ParameterState(momentum, second_moment, *(jnp.zeros(shape, second_moment.dtype) for shape in moments))


def _update_leaf(
    spec: Spec, theta: Weights, orthogonalized: bool, g: Any, p: Any, axes: MatrixAxes, *old: Any
) -> tuple[Any, ...]:
    """(step, whether the gradient was finite, the four arrays of the new state) of one leaf."""
    if g.size == 0:
        return g, jnp.array(True), *old
    wide_g, wide_p = _wide(g), _wide(p)
    finite = jnp.isfinite(wide_g).all()
    wide_g = jnp.where(finite, wide_g, 0)
    parts = matrix_views(g.shape, axes)
    steps, new = [], []
    with jax.default_matmul_precision("highest"):
        for part, accumulators in zip(parts, unpack(jnp, parts, ParameterState(*old)), strict=True):
            orthogonalize = rule.orthogonalize if orthogonalized and not part.is_vector else None
            view_g, view_p = part.view(jnp, wide_g), part.view(jnp, wide_p)
            step, after = rule.update(jnp, spec, theta, accumulators, view_g, view_p, orthogonalize)
            steps.append(step)
            new.append(after)
    kept = (jnp.where(finite, after, before) for after, before in zip(pack(jnp, parts, new), old, strict=True))
    return jnp.where(finite, join(jnp, parts, steps), 0).astype(g.dtype), finite, *kept


def _wide(x: Any) -> Any:
    """In float32, or float64 if it is that already."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"a leaf of shape {x.shape} is of {x.dtype}; only real floats can be optimized, so mask or split it")
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
