"""A variational autoencoder (Kingma and Welling 2014) of images."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from celo2.tasks.base import Params, Supervised
from celo2.tasks.layers import linear, linear_params
from celo2.tasks.noise import NoisyExamples


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VAE(Supervised):
    """One hidden GELU layer on both sides of a code with a diagonal normal posterior.

    The loss is the negative evidence lower bound, in nats per pixel. The data's noise has the width
    of the code.
    """

    width: int = dataclasses.field(default=256, metadata={"static": True})

    def init_params(self, key: jax.Array) -> Params:
        keys = jax.random.split(key, 4)
        pixels, code = self.data.pixels, self.data.width
        params = linear_params(keys[0], "encoder", (pixels, self.width))
        params |= linear_params(keys[1], "posterior", (self.width, 2 * code))
        params |= linear_params(keys[2], "decoder", (code, self.width))
        return params | linear_params(keys[3], "head", (self.width, pixels))

    def batch_loss(self, params: Params, batch: NoisyExamples) -> jax.Array:
        hidden = jax.nn.gelu(linear(params, "encoder", batch.images))
        mean, log_deviation = jnp.split(linear(params, "posterior", hidden), 2, -1)
        code = mean + jnp.exp(log_deviation) * batch.noise
        logits = linear(params, "head", jax.nn.gelu(linear(params, "decoder", code)))
        reconstruction = optax.sigmoid_binary_cross_entropy(logits, batch.images).sum(-1)
        divergence = divergence_from_prior(mean, log_deviation)
        return (reconstruction + divergence).mean() / self.data.pixels


def divergence_from_prior(mean: jax.Array, log_deviation: jax.Array) -> jax.Array:
    """Compute KL(N(mean, deviation) || N(0, 1)) in nats, summed over the last axis."""
    variance = jnp.exp(2 * log_deviation)
    return jnp.sum((jnp.square(mean) + variance - 1) / 2 - log_deviation, -1)
