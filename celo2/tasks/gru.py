"""A gated recurrent unit (Cho et al. 2014) that predicts the next token of a text."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from celo2.tasks.base import Params, Supervised, lecun
from celo2.tasks.layers import linear, linear_params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GRU(Supervised):
    """Embedding, one layer, a linear head; loss in nats per token.

    The weights of both gates and of the candidate are one matrix for the input and one for the
    state, as cuDNN's.
    """

    embedding_width: int = dataclasses.field(default=64, metadata={"static": True})
    width: int = dataclasses.field(default=128, metadata={"static": True})

    def init_params(self, key: jax.Array) -> Params:
        keys = jax.random.split(key, 4)
        shape = (self.data.vocabulary, self.embedding_width)
        params = {
            "token_embedding": jax.random.normal(keys[0], shape),
            "recurrent.w": lecun(keys[1], (self.width, 3 * self.width)),
            "recurrent.b": jnp.zeros(self.width),
        }
        params |= linear_params(keys[2], "input", (self.embedding_width, 3 * self.width))
        return params | linear_params(keys[3], "head", (self.width, self.data.vocabulary))

    def batch_loss(self, params: Params, batch: jax.Array) -> jax.Array:
        # The input products of all time steps are one product, outside the recurrence.
        inputs = linear(params, "input", params["token_embedding"][batch[:, :-1]])
        logits = linear(params, "head", self.states(params, inputs))
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    def states(self, params: Params, inputs: jax.Array) -> jax.Array:
        """Run the recurrence: (n, length, 3 width) to (n, length, width)."""

        def step(h: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            r, z, n = jnp.split(inputs, 3, -1)
            h_r, h_z, h_n = jnp.split(h @ params["recurrent.w"], 3, -1)
            r, z = jax.nn.sigmoid(r + h_r), jax.nn.sigmoid(z + h_z)
            n = jnp.tanh(n + r * (h_n + params["recurrent.b"]))
            h = (1 - z) * n + z * h
            return h, h

        zero = jnp.zeros((len(inputs), self.width))
        _, states = jax.lax.scan(step, zero, inputs.swapaxes(0, 1))
        return states.swapaxes(0, 1)
