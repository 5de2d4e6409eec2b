"""Celo (Moudgil, Knyazev, Lajoie, Belilovsky; arXiv 2501.12670, TMLR 2025) and Celo-Adam.

An MLP proposes a step for each entry of each tensor; an LSTM that sees the loss and the time scales
all steps by one number per step. The two are meta-trained one after the other, so they are two
transformations here:

    Celo:      scale_by_mlp,  scale_by_scheduler, scale(-1)
    Celo-Adam: scale_by_adam, scale_by_scheduler, scale(-0.001)
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo2.baselines import accumulators, loss_features, lstm, network
from celo2.baselines.accumulators import GRADIENT_CLIP, Accumulators
from celo2.baselines.loss_features import LossBuffer
from celo2.baselines.lstm import Memory
from celo2.baselines.theta import CeloWeights, load_celo
from celo2.baselines.transformation import check_num_steps, in_float32, scalar_loss
from celo2.errors import InputError

CeloSource = str | os.PathLike[str] | CeloWeights
"""Name of weights that ship ("celo" and "celo-adam", published; "celo-small", meta-trained here),
path of a checkpoint, or weights."""


class SchedulerState(NamedTuple):
    """State of the scheduler: the same for a network of any size."""

    count: jax.Array
    """Steps done, int32."""
    buffer: LossBuffer
    memory: Memory


class MlpState(NamedTuple):
    """State of the MLP's features: a tree like the parameters, float32."""

    accumulators: Any
    """`Accumulators` in the place of each parameter."""


def celo(
    num_steps: int | jax.Array, theta: CeloSource = "celo"
) -> optax.GradientTransformationExtraArgs:
    """Train with Celo; there is no learning rate to set.

    Args:
        num_steps: planned number of steps. Celo was meta-trained on up to 2,000.
        theta: name or path of learned numbers, or the numbers themselves.

    Returns:
        A transformation to be called as `update(grads, state, params, value=loss)`, with the
        training loss at `params`. Updates are added to the parameters, as by any optax optimizer.
        `update(..., weights=CeloWeights(...))` takes other learned numbers for that call, which may
        be traced, differentiated and batched. As in the authors' implementation, a gradient or loss
        that is not finite is not skipped and stays in the state.

    Raises:
        InputError: `num_steps` is below 1, no such theta; in `update`, `value` or `params` is
            missing.
    """
    weights = _with_mlp(theta)
    scheduler = scale_by_scheduler(num_steps, weights)
    return in_float32(optax.chain(scale_by_mlp(weights), scheduler, optax.scale(-1.0)))


def celo_mlp(theta: CeloSource = "celo") -> optax.GradientTransformationExtraArgs:
    """Train with Celo's MLP alone, as in the first phase of its meta-training.

    It needs neither the loss nor the number of steps.

    Raises:
        InputError: no such theta; in `update`, `params` is missing.
    """
    return in_float32(optax.chain(scale_by_mlp(_with_mlp(theta)), optax.scale(-1.0)))


def celo_adam(
    num_steps: int | jax.Array, theta: CeloSource = "celo-adam"
) -> optax.GradientTransformationExtraArgs:
    """Train with Celo-Adam: Adam's direction, scaled by a scheduler that was meta-trained for it.

    Arguments, calls and errors are those of `celo`; an MLP in `theta` is not used.
    """
    weights = theta if isinstance(theta, CeloWeights) else load_celo(theta)
    return in_float32(
        optax.chain(
            optax.clip(GRADIENT_CLIP),
            optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8, eps_root=1e-10),
            scale_by_scheduler(num_steps, weights),
            optax.scale(-network.STEP_SCALE),
        )
    )


def scale_by_mlp(theta: CeloWeights) -> optax.GradientTransformationExtraArgs:
    """Turn gradients into the steps that Celo's MLP proposes."""

    def init(params: optax.Params) -> MlpState:
        return MlpState(jax.tree.map(accumulators.init, params))

    def update(
        updates: Any, state: Any, params: Any = None, *, weights: CeloWeights = theta, **extra: Any
    ) -> tuple[Any, MlpState]:
        del extra
        mlp = jax.tree.map(jnp.asarray, weights.mlp)
        clipped = jax.tree.map(accumulators.clip, updates)
        new = jax.tree.map(
            accumulators.update,
            state.accumulators,
            clipped,
            is_leaf=lambda x: isinstance(x, Accumulators),
        )

        def propose(g: jax.Array, p: jax.Array, statistics: Accumulators) -> jax.Array:
            return network.proposed_step(mlp, statistics, g, p).astype(g.dtype)

        return jax.tree.map(propose, clipped, params, new), MlpState(new)

    return optax.GradientTransformationExtraArgs(init, update)


def scale_by_scheduler(
    num_steps: int | jax.Array, theta: CeloWeights
) -> optax.GradientTransformationExtraArgs:
    """Scale all steps by Celo's learned schedule, one positive number per step."""
    check_num_steps(num_steps)

    def init(params: optax.Params) -> SchedulerState:
        del params
        memory = lstm.init(theta.scheduler, rows=1)
        return SchedulerState(jnp.zeros((), jnp.int32), loss_features.init(), memory)

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        value: Any = None,
        weights: CeloWeights = theta,
        **extra: Any,
    ) -> tuple[Any, SchedulerState]:
        del params, extra
        scheduler = jax.tree.map(jnp.asarray, weights.scheduler)
        loss = scalar_loss(value)
        buffer, x = loss_features.observe(state.buffer, loss, state.count, num_steps)
        memory = lstm.step(scheduler, state.memory, x[None], state.count == 0)
        step_size = 0.1 * jnp.exp(lstm.linear(scheduler.step_size, memory.hidden)[0, 0])
        scaled = jax.tree.map(lambda u: step_size.astype(u.dtype) * u, updates)
        return scaled, SchedulerState(state.count + 1, buffer, memory)

    return optax.GradientTransformationExtraArgs(init, update)


def _with_mlp(theta: CeloSource) -> CeloWeights:
    weights = theta if isinstance(theta, CeloWeights) else load_celo(theta)
    if weights.mlp is None:
        raise InputError("this theta has no MLP, so it is one of Celo-Adam; pass it to celo_adam")
    return weights
