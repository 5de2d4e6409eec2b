"""VeLO (Metz et al.: VeLO, arXiv 2211.09760).

One LSTM row per tensor, coupled by a maximum, gives a step size and mixes a bank of MLPs into one
for that tensor; that MLP proposes a step for each entry. The update of one tensor depends on all
tensors.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo2.baselines import accumulators, loss_features, lstm, network
from celo2.baselines.accumulators import Accumulators
from celo2.baselines.loss_features import LossBuffer
from celo2.baselines.lstm import Memory
from celo2.baselines.theta import Mlp, VeloWeights, load_velo
from celo2.baselines.transformation import check_num_steps, in_float32, scalar_loss

BANK_SCALE = 100.0
"""Factor of the mixed MLP with the published weights."""
RANKS = 5
VeloSource = str | os.PathLike[str] | VeloWeights
"""Name of weights that ship ("velo-small"), path of a checkpoint, or weights."""


class VeloState(NamedTuple):
    """State of VeLO, float32."""

    count: jax.Array
    """Steps done, int32."""
    buffer: LossBuffer
    memory: Memory
    """One row per tensor, in the order of the leaves."""
    accumulators: Any
    """A tree like the parameters with `Accumulators` as leaves."""


def velo(num_steps: int | jax.Array, theta: VeloSource) -> optax.GradientTransformationExtraArgs:
    """Train with VeLO; there is no learning rate to set.

    Args:
        num_steps: planned number of steps. VeLO was meta-trained on up to 200,000, velo-small on up
            to 500; the authors' front end never lets the rule see more than 150,000 and averages
            gradients and losses over several calls instead.
        theta: path of the published checkpoint or of its conversion to safetensors, the numbers
            themselves, or "velo-small", a small one that was meta-trained here in minutes.

    Returns:
        A transformation to be called as `update(grads, state, params, value=loss)`, with the
        training loss at `params`. Updates are added to the parameters, as by any optax optimizer.
        `update(..., weights=VeloWeights(...))` takes other learned numbers for that call, which may
        be traced, differentiated and batched. As in the authors' implementation, a gradient or loss
        that is not finite is not skipped and stays in the state.

    Raises:
        InputError: `num_steps` is below 1, no such theta; in `update`, `value` or `params` is
            missing.
    """
    check_num_steps(num_steps)
    learned = theta if isinstance(theta, VeloWeights) else load_velo(theta)

    def init(params: optax.Params) -> VeloState:
        memory = lstm.init(learned.recurrent, rows=len(jax.tree.leaves(params)))
        statistics = jax.tree.map(accumulators.init, params)
        return VeloState(jnp.zeros((), jnp.int32), loss_features.init(), memory, statistics)

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        value: Any = None,
        weights: VeloWeights = learned,
        **extra: Any,
    ) -> tuple[Any, VeloState]:
        del extra
        weights = jax.tree.map(jnp.asarray, weights)
        tensors, tree = jax.tree.flatten(params)
        grads = [accumulators.clip(g) for g in tree.flatten_up_to(updates)]
        old = tree.flatten_up_to(state.accumulators)

        # One row per tensor: what is known of the run, and of the tensor before this gradient.
        loss = scalar_loss(value)
        buffer, x = loss_features.observe(state.buffer, loss, state.count, num_steps)
        own = [tensor_features(*each) for each in zip(old, tensors, strict=True)]
        rows = jnp.stack([jnp.concatenate([x, features]) for features in own])
        memory = lstm.step(weights.recurrent, state.memory, rows, state.count == 0)

        new = [accumulators.update(*each) for each in zip(old, grads, strict=True)]
        steps = _steps(weights, memory.hidden, new, grads, tensors)
        state = VeloState(state.count + 1, buffer, memory, tree.unflatten(new))
        return tree.unflatten(steps), state

    return in_float32(optax.GradientTransformationExtraArgs(init, update))


def _steps(
    weights: VeloWeights,
    hidden: jax.Array,
    statistics: list[Accumulators],
    grads: list[jax.Array],
    tensors: list[jax.Array],
) -> list[jax.Array]:
    """Return what is added to each tensor; `hidden` is the output of the LSTM, a row per tensor."""
    step_sizes = lstm.linear(weights.recurrent.step_size, hidden)[:, 0]  # may be negative
    control = lstm.linear(weights.control, hidden)
    # Each tensor's MLP is the mean of the bank weighted by its row of `control`, times 100.
    scale = BANK_SCALE / control.shape[1]
    mlps = Mlp(*(scale * jnp.tensordot(control, each, axes=1) for each in weights.bank))
    steps = []
    for i, (each, g, p) in enumerate(zip(statistics, grads, tensors, strict=True)):
        mlp = Mlp(*(array[i].astype(p.dtype) for array in mlps))
        step = network.proposed_step(mlp, each, g, p)
        steps.append(-step_sizes[i].astype(p.dtype) * step)
    return steps


def tensor_features(statistics: Accumulators, p: jax.Array) -> jax.Array:
    """Return twelve numbers on one tensor: mean of V, rank, variances of M_i and of V.

    Statistics are relative to the root mean square of the tensor; V is divided by it once, not by
    its square, and its variance is taken about the means of the momenta, as in the authors'
    implementation.
    """
    scale = jax.lax.rsqrt(jnp.maximum(1e-9, jnp.mean(p * p)))
    m, v = scale * statistics.momentum, scale * statistics.second_moment[None]
    axes = tuple(range(1, m.ndim))
    mean = jnp.mean(m, axis=axes, keepdims=True)
    variance_m = jnp.mean(jnp.square(m - mean), axis=axes)
    variance_v = jnp.mean(jnp.square(v - mean), axis=axes)
    longer_axes = sum(length > 1 for length in p.shape)
    rank = jax.nn.one_hot(longer_axes, RANKS, dtype=p.dtype)  # all zero at five and more
    mean_v = jnp.mean(v).reshape(1)
    return jnp.concatenate([_log(mean_v), rank, _log(variance_m), _log(variance_v)])


def _log(x: jax.Array) -> jax.Array:
    """Compress a statistic to [-2.5, 2.5]."""
    return 0.5 * jnp.clip(jnp.log(1e-8 + jnp.abs(10 * x)), -5, 5)
