"""An LSTM that predicts the next byte of a text."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from celo2.tasks.base import Params, Supervised, lecun
from celo2.tasks.text_sets import BYTES

GATES = ("input", "forget", "cell", "output")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ByteLSTM(Supervised):
    """Embedding, one layer with a forget bias of 1, a linear head; loss in nats per byte."""

    embedding_width: int = dataclasses.field(default=64, metadata={"static": True})
    width: int = dataclasses.field(default=96, metadata={"static": True})

    def init_params(self, key: jax.Array) -> Params:
        keys = jax.random.split(key, 10)
        params = {
            "token_embedding": jax.random.normal(keys[0], (BYTES, self.embedding_width)),
            "head.w": lecun(keys[1], (self.width, BYTES)),
            "head.b": jnp.zeros(BYTES),
        }
        for i, gate in enumerate(GATES):
            params[f"lstm.{gate}_x"] = lecun(keys[2 + i], (self.embedding_width, self.width))
            params[f"lstm.{gate}_h"] = lecun(keys[6 + i], (self.width, self.width))
            params[f"lstm.{gate}_b"] = jnp.full(self.width, float(gate == "forget"))
        return params

    def batch_loss(self, params: Params, batch: jax.Array) -> jax.Array:
        x, h, b = (self._concatenated(params, kind) for kind in "xhb")
        # The input products of all time steps are one product, outside the recurrence.
        inputs = params["token_embedding"][batch[:, :-1]] @ x + b
        zero = jnp.zeros((len(batch), self.width))

        def step(
            carry: tuple[jax.Array, jax.Array], inputs: jax.Array
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            output, cell = carry
            i, f, g, o = jnp.split(inputs + output @ h, 4, -1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            output = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return (output, cell), output

        _, outputs = jax.lax.scan(step, (zero, zero), inputs.swapaxes(0, 1))
        logits = outputs.swapaxes(0, 1) @ params["head.w"] + params["head.b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    def _concatenated(self, params: Params, kind: str) -> jax.Array:
        """Join the weights of one kind, "x", "h" or "b", of all gates along the output."""
        return jnp.concatenate([params[f"lstm.{gate}_{kind}"] for gate in GATES], -1)
