"""`celo2`: the learned rule on hidden matrices and AdamW on the rest, in place of `optax.adamw`."""

from __future__ import annotations

import os
from collections.abc import Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from celo2.errors import InputError
from celo2.jax.adam import scale_by_adam
from celo2.jax.learning_rates import (
    LearningRates,
    resolve,
    scale_by_initial_weights,
    scale_by_width,
)
from celo2.jax.routing import route, rules
from celo2.jax.transform import Axes, scale_by_celo2
from celo2.parameters.routing import ADAMW, CELO2, check_rule
from celo2.theta import Theta, load_theta


def celo2(
    learning_rate: optax.ScalarOrSchedule | None = None,
    *,
    total_steps: int | jax.Array | None = None,
    weight_decay: float | None = None,
    weight_decay_mask: Any = None,
    adamw_lr_multiplier: float | None = None,
    theta: str | os.PathLike[str] | Theta = "celo2",
    orthogonalize: bool | None = None,
    labels: Any = None,
    axes: Axes = None,
    skip_zero_gradients: bool = True,
    guard: Any = None,
    state_dtype: Any = "float32",
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """Create the learned optimizer Celo2.

    Its rule updates hidden matrices; AdamW updates vectors and what is named an embedding or an
    output head. A leaf whose gradient is not finite stays where it is for that step, as does its
    state.

    Give either `total_steps`, and there is nothing to tune, or `learning_rate`.

    Args:
        learning_rate: RMS of the update of every matrix per step; a number or an optax schedule.
        total_steps: number of steps of the whole run. Learning rates, warm-up, decay and weight
            decay are then those of theta's policy (`celo2.policy`), which reads the width of hidden
            matrices and the size of the parameters that `init` is given; later steps stay at the
            last learning rate. It may be traced.
        weight_decay: decoupled weight decay, p <- p - learning_rate * weight_decay * p, under both
            optimizers, at the learning rate of hidden matrices; with `total_steps` it is left
            out where the update moves a weight away from zero, as the policy says. None: the
            policy's, or 0 with `learning_rate`; that of `optax.adamw` is 1e-4, of PyTorch's AdamW
            0.01.
        weight_decay_mask: tree of booleans with the parameters' structure (or a prefix of it), or a
            function from the parameters to one: which leaves decay. None: all but biases, norms
            and other leaves of fewer than two axes.
        adamw_lr_multiplier: learning rate of AdamW over `learning_rate`; None: 20, as in the paper,
            or the policy's with `total_steps`. It does not multiply weight decay.
        theta: name of a theta that ships with the package, path of a theta file, or a `Theta`.
        orthogonalize: apply Newton-Schulz (Celo2), or use the rule alone, on every leaf
            (Celo2-base); None: as theta was meta-trained.
        labels: tree of "celo2" and "adamw" with the parameters' structure (or a prefix of it), or a
            function from the parameters to one; None: by name and shape (see `route`).
        axes: as in `scale_by_celo2`.
        skip_zero_gradients: as in `scale_by_celo2`.
        guard: as in `scale_by_celo2`.
        state_dtype: as in `scale_by_celo2`; AdamW's moments are float32.
        b1: first decay of AdamW.
        b2: second decay of AdamW.
        eps: epsilon of AdamW.

    Raises:
        InputError: a number out of range, no such theta, or both or neither of `learning_rate` and
            `total_steps`.
    """
    theta = theta if isinstance(theta, Theta) else load_theta(theta)
    everywhere = theta.spec.everywhere if orthogonalize is None else not orthogonalize
    given = {"weight_decay": weight_decay, "adamw_lr_multiplier": adamw_lr_multiplier}
    for name, value in {"learning_rate": learning_rate, **given}.items():
        _check_not_negative(name, value)
    learning_rates = resolve(theta, learning_rate, total_steps, **given)
    learned = scale_by_celo2(
        theta,
        orthogonalize=orthogonalize,
        axes=axes,
        skip_zero_gradients=skip_zero_gradients,
        guard=guard,
        state_dtype=state_dtype,
    )
    routed = partial(rules, everywhere=everywhere)
    labels = _checked(routed if labels is None else labels)
    adam = scale_by_adam(b1, b2, eps)
    mask = decaying if weight_decay_mask is None else weight_decay_mask
    policy = learning_rates.policy
    if policy is not None:
        learned = optax.chain(learned, scale_by_width(policy, axes))
    updates = optax.partition(transforms(learned, adam, learning_rates, mask), labels)
    if policy is None:
        return updates
    return optax.chain(updates, scale_by_initial_weights(policy, labels, axes))


def transforms(
    learned: optax.GradientTransformation,
    adam: optax.GradientTransformation,
    learning_rates: LearningRates,
    mask: Any,
) -> dict[Hashable, optax.GradientTransformation]:
    """Return what updates the leaves of each label: a direction, weight decay, learning rate.

    Args:
        learned: gives the direction of matrices.
        adam: gives that of the other leaves.
        learning_rates: what scales both.
        mask: which leaves have weight decay, as a tree of booleans or a function to one.
    """
    tail = [
        learning_rates.add_weight_decay(mask),
        optax.scale_by_learning_rate(learning_rates.base),
    ]
    # Multipliers come before weight decay is added, so that they scale AdamW's update alone.
    return {
        CELO2: _zero_where_not_finite(optax.chain(learned, *tail)),
        ADAMW: _zero_where_not_finite(optax.chain(adam, learning_rates.multiply, *tail)),
    }


def decaying(params: Any) -> Any:
    """Return which leaves have weight decay by default."""
    structure = jax.tree.structure(params)
    return structure.unflatten([each.decays for each in route(params)])


def _check_not_negative(name: str, value: Any) -> None:
    if isinstance(value, int | float) and not value >= 0:
        raise InputError(f"{name} is {value}; it must not be below 0")


def _checked(labels: Any) -> Any:
    """Return the labels, or a function that gives them, refusing an unknown label early."""

    def check(tree: Any) -> Any:
        for label in jax.tree.leaves(tree):
            check_rule(label)
        return tree

    def labels_of(params: Any) -> Any:
        return check(labels(params))

    return labels_of if callable(labels) else check(labels)


def _zero_where_not_finite(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Give a leaf whose gradient is not finite a zero update: no weight decay either."""
    with_extra = optax.with_extra_args_support(inner)

    def zeroed(update: Any, g: Any) -> jax.Array:
        return jnp.where(jnp.isfinite(g).all(), update, jnp.zeros_like(update))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        new, state = with_extra.update(updates, state, params, **extra)
        return jax.tree.map(zeroed, new, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)
