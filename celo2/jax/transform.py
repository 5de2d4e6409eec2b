"""`scale_by_celo2`: the learned rule as an optax transformation of one update per leaf."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo2 import rule
from celo2.errors import InputError
from celo2.jax.batches import Rule, update_leaves
from celo2.jax.leaf import init_leaf, read_leaf
from celo2.jax.mesh import automatic, mesh_of
from celo2.parameters.state import ParameterState
from celo2.parameters.views import MatrixAxes
from celo2.rule import Weights
from celo2.theta import Theta, load_theta

Axes = MatrixAxes | Any | Callable[[Any], Any] | None
"""One `MatrixAxes` for all leaves, a tree with one per leaf (or None: by default) or a prefix of
such a tree, or a function from the parameters to one."""


class ScaleByCelo2State(NamedTuple):
    """State of `scale_by_celo2`: trees like the parameters.

    The first three are described in `celo2.parameters.state`.
    """

    averages: Any
    row_moments: Any
    column_moments: Any
    skipped: jax.Array
    """Number of gradients, leaf by leaf, that were not finite and were skipped; int32."""
    pushed: jax.Array
    """Number of updates, matrix by matrix, that the guard has pushed; int32."""
    count: jax.Array
    """Number of steps, from which the random bits of state in bfloat16 follow; int32."""


def scale_by_celo2(
    theta: str | os.PathLike[str] | Theta = "celo2",
    *,
    orthogonalize: bool | None = None,
    axes: Axes = None,
    skip_zero_gradients: bool = True,
    guard: Any = None,
    state_dtype: Any = "float32",
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
            least amount that restores it, which bounds gradient norms for any theta
            (docs/guarantee.md). None: no guard.
        state_dtype: dtype of the running statistics per entry, float32 or bfloat16. In bfloat16
            they are rounded stochastically, by the bits that PyTorch's front end draws: 8 bytes per
            parameter in place of 16.

    Returns:
        A transformation whose `update` needs `params`. Updates keep the dtype of the gradients. A
        leaf whose gradient is not finite gets a zero update and its state stays as it was.
        `update(..., weights=Weights(...))` takes other learned numbers for that call, which may be
        traced, differentiated and batched.

    Raises:
        InputError: no such theta, a guard out of range, or another state dtype; in `init` and
            `update`, leaves that are not real floats or axes that do not fit; in `update`,
            `params` is None.
    """
    theta = theta if isinstance(theta, Theta) else load_theta(theta)
    if orthogonalize is None:
        orthogonalize = theta.spec.newton_schulz
    rule.check_kappa(guard)
    if jnp.dtype(state_dtype) not in (jnp.float32, jnp.bfloat16):
        raise InputError(f"state_dtype is {state_dtype!r}; give float32 or bfloat16")

    options = _Options(theta, orthogonalize, axes, skip_zero_gradients, guard, state_dtype)
    return optax.GradientTransformationExtraArgs(partial(_init, options), partial(_update, options))


class _Options(NamedTuple):
    """What `scale_by_celo2` was given, checked."""

    theta: Theta
    orthogonalize: bool
    axes: Axes
    skip_zero_gradients: bool
    guard: Any
    state_dtype: Any


def _init(options: _Options, params: Any) -> ScaleByCelo2State:
    init = partial(init_leaf, options.theta.spec, options.state_dtype)
    states = jax.tree.map(init, params, axes_tree(options.axes, params))
    leaves = jax.tree.structure(params).flatten_up_to(states)
    # An array each: a buffer cannot be donated twice.
    return _state(params, leaves, *[jnp.zeros((), jnp.int32) for _ in range(3)])


def _update(
    options: _Options,
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    weights: Weights | None = None,
    **extra: Any,
) -> tuple[Any, ScaleByCelo2State]:
    del extra
    if params is None:
        raise InputError(
            "params is None, but the Celo2 rule reads the weights; "
            "call update(grads, state, params)"
        )
    mesh = mesh_of(params)
    weights = options.theta.weights if weights is None else weights

    def all_leaves(updates: Any, state: Any, params: Any, weights: Weights) -> tuple[Any, Any]:
        *trees, skipped, pushed, count = state
        read = partial(read_leaf, options.skip_zero_gradients, count + 1)
        axes = axes_tree(options.axes, params)
        structure = jax.tree.structure(updates)
        leaves = structure.flatten_up_to(jax.tree.map(read, updates, params, axes, *trees))
        shared = Rule(options.theta.spec, weights, options.orthogonalize, options.guard)
        new, pushes = update_leaves(shared, leaves, mesh)
        for leaf in leaves:
            skipped = skipped + ~leaf.finite
        steps = structure.unflatten([step for step, _ in new])
        states = [each for _, each in new]
        return steps, _state(updates, states, skipped, pushed + pushes, count + 1)

    run = automatic(all_leaves, mesh, (updates, state))
    return run(updates, state, params, Weights(*map(jnp.asarray, weights)))


def default_axes(shape: tuple[int, ...]) -> MatrixAxes:
    """Return the reading of a leaf of which nothing is stated; see `scale_by_celo2`."""
    if len(shape) < 4:
        return MatrixAxes()
    return MatrixAxes(fan_in=tuple(range(len(shape) - 1)), fan_out=-1)


def axes_tree(axes: Axes, params: Any) -> Any:
    """Return one `MatrixAxes` per leaf; `axes` may be a prefix tree, and leaves may be masked."""
    axes = axes(params) if callable(axes) else axes

    def expand(stated: MatrixAxes | None, subtree: Any) -> Any:
        return jax.tree.map(lambda p: stated or default_axes(jnp.shape(p)), subtree)

    def is_leaf(x: Any) -> bool:
        return x is None or isinstance(x, MatrixAxes)

    return jax.tree.map(expand, axes, params, is_leaf=is_leaf)


def _state(tree: Any, leaves: Sequence[ParameterState], *counts: jax.Array) -> ScaleByCelo2State:
    """Return the state of all leaves of a tree, each field as a tree, and the counts."""
    structure = jax.tree.structure(tree)
    trees = []
    for i in range(len(ParameterState._fields)):
        trees.append(structure.unflatten([leaf[i] for leaf in leaves]))
    return ScaleByCelo2State._make([*trees, *counts])
