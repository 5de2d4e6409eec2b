"""Learning rates of `celo2`: those the caller gives, or those of theta's policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo2.errors import InputError
from celo2.jax.leaf import as_float
from celo2.jax.routing import route
from celo2.jax.transform import Axes, axes_tree
from celo2.parameters.routing import CELO2, HEAD, HIDDEN
from celo2.parameters.views import matrix_views
from celo2.policy import Policy, check_total_steps, matrix_size, matrix_width
from celo2.theta import Theta

ONE_OF_TWO = (
    "give either total_steps=, the number of optimizer steps of the run, and nothing needs tuning, "
    "or learning_rate=, a number or an optax schedule"
)


class LearningRates(NamedTuple):
    """What scales the updates of RMS 1 of the rule, and those of Adam."""

    base: optax.ScalarOrSchedule
    """Learning rate of hidden matrices, and of weight decay under both optimizers."""
    multiply: optax.GradientTransformation
    """Multiplies Adam's updates."""
    weight_decay: Any
    policy: Policy | None
    """What scales all updates by the size of the initial weights, and says how weights decay; None:
    nothing does."""

    def add_weight_decay(self, mask: Any) -> optax.GradientTransformation:
        """Add the decay of the leaves of `mask` to updates that are to be subtracted."""
        if self.policy is None:
            return optax.add_decayed_weights(self.weight_decay, mask)
        return optax.masked(_add_cautious_decay(self.weight_decay, self.policy.cautious), mask)


class ScaleByInitialWeightsState(NamedTuple):
    """State of `scale_by_initial_weights`."""

    factor: jax.Array
    """0-d float32."""


def resolve(
    theta: Theta,
    learning_rate: optax.ScalarOrSchedule | None,
    total_steps: int | jax.Array | None,
    weight_decay: float | None,
    adamw_lr_multiplier: float | None,
) -> LearningRates:
    """Return the learning rates of the arguments of `celo2`.

    Raises:
        InputError: not exactly one of `learning_rate` and `total_steps` is given, `total_steps` is
            out of range or comes with a multiplier, or theta has no policy.
    """
    if (learning_rate is None) == (total_steps is None):
        raise InputError(ONE_OF_TWO)
    if learning_rate is not None:
        multiplier = 20.0 if adamw_lr_multiplier is None else adamw_lr_multiplier
        weight_decay = 0.0 if weight_decay is None else weight_decay
        return LearningRates(learning_rate, optax.scale(multiplier), weight_decay, None)
    if adamw_lr_multiplier is not None:
        raise InputError(
            f"adamw_lr_multiplier is {adamw_lr_multiplier}, but with total_steps= theta's policy "
            "sets it; leave it out, or give learning_rate="
        )
    if not isinstance(total_steps, jax.Array):  # it may be traced
        total_steps = check_total_steps(total_steps)
    policy = theta.required_policy()
    weight_decay = policy.weight_decay if weight_decay is None else weight_decay
    multiply = _scale_by_kind(policy.multipliers(jnp, total_steps))
    return LearningRates(schedule(policy, total_steps), multiply, weight_decay, policy)


def schedule(policy: Policy, total_steps: int | jax.Array) -> Callable[[Any], jax.Array]:
    """Return the learning rate of hidden matrices as an optax schedule, of the steps so far."""
    peak = policy.peak(jnp, HIDDEN, total_steps)
    return lambda count: peak * policy.factor(jnp, count, total_steps)


def scale_by_initial_weights(
    policy: Policy, labels: Any, axes: Axes = None
) -> optax.GradientTransformation:
    """Multiply updates by the policy's factor for the weights that `init` was given.

    Args:
        policy: its `weight_factor` is that factor.
        labels: as of `celo2`: which leaves are hidden matrices.
        axes: as in `scale_by_celo2`.
    """

    def init(params: Any) -> ScaleByInitialWeightsState:
        sizes = _hidden_sizes(labels, axes, params)
        factor = policy.weight_factor(jnp, jnp.stack(sizes)) if sizes else jnp.ones(())
        return ScaleByInitialWeightsState(factor.astype(jnp.float32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return jax.tree.map(lambda u: (state.factor * u).astype(u.dtype), updates), state

    return optax.GradientTransformation(init, update)


def scale_by_width(policy: Policy, axes: Axes = None) -> optax.GradientTransformation:
    """Multiply updates of hidden matrices by the policy's factor for their widths.

    `axes` are as in `scale_by_celo2`. Leaves of fewer than two axes are no matrices, and scaled as
    well.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(params)
        widths = []
        for p, reading in zip(
            leaves, structure.flatten_up_to(axes_tree(axes, params)), strict=True
        ):
            if jnp.ndim(p) > 1 and jnp.size(p):
                widths.append(matrix_width(matrix_views(jnp.shape(p), reading)[0]))
        factor = policy.width_factor(jnp, jnp.array(widths, float)) if widths else 1.0
        return jax.tree.map(lambda u: (factor * u).astype(u.dtype), updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _add_cautious_decay(weight_decay: Any, cautious: Any) -> optax.GradientTransformation:
    """Add weight decay; where an update moves a weight away from zero, all but the part `cautious`.

    Updates are those to be subtracted.
    """

    def decayed(u: jax.Array, p: Any) -> jax.Array:
        kept = jnp.where(jnp.sign(u) * p < 0, 1.0 - cautious, 1.0)
        return (u + weight_decay * kept * p).astype(u.dtype)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(decayed, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _hidden_sizes(labels: Any, axes: Axes, params: Any) -> list[jax.Array]:
    """Return the size, 0-d, of each matrix that the rule updates; see `matrix_size`."""
    labels = labels(params) if callable(labels) else labels
    rules = jax.tree.leaves(jax.tree.broadcast(labels, params))
    leaves, structure = jax.tree.flatten(params)
    readings = structure.flatten_up_to(axes_tree(axes, params))
    sizes = []
    for rule, p, reading in zip(rules, leaves, readings, strict=True):
        if rule == CELO2 and jnp.ndim(p) > 1 and jnp.size(p):
            view = matrix_views(jnp.shape(p), reading)[0]
            sizes.append(matrix_size(jnp, jnp.square(as_float(p)).mean(), view))
    return sizes


def _scale_by_kind(multipliers: dict[str, Any]) -> optax.GradientTransformation:
    """Multiply each leaf by the number of its kind; what the rule would update counts as a head."""
    factors = {**multipliers, HIDDEN: multipliers[HEAD]}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        scales = [factors[each.kind] for each in route(params)]
        scaled = jax.tree.structure(params).unflatten(scales)
        return jax.tree.map(lambda u, scale: (scale * u).astype(u.dtype), updates, scaled), state

    return optax.GradientTransformation(optax.init_empty_state, update)
