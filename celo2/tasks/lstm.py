"""An LSTM that predicts the next byte of a text."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from celo2.tasks.base import Params, lecun
from celo2.tasks.transformer import BYTES


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ByteLSTM:
    """Embedding, one layer with a forget bias of 1, a linear head. One task; loss in nats a byte."""

    text: jax.Array  # (n,) uint8
    embedding_width: int = dataclasses.field(default=64, metadata={"static": True})
    width: int = dataclasses.field(default=96, metadata={"static": True})
    context: int = dataclasses.field(default=32, metadata={"static": True})
    batch_size: int = dataclasses.field(default=32, metadata={"static": True})

    def sample(self, key: jax.Array) -> jax.Array:
        return jnp.zeros(())

    def init(self, key: jax.Array, task: jax.Array) -> Params:
        keys = jax.random.split(key, 10)
        params = {
            "token_embedding": jax.random.normal(keys[0], (BYTES, self.embedding_width)),
            "head.w": lecun(keys[1], (self.width, BYTES)),
            "head.b": jnp.zeros(BYTES),
        }
        for i, gate in enumerate(("input", "forget", "cell", "output")):
            params[f"lstm.{gate}_x"] = lecun(keys[2 + i], (self.embedding_width, self.width))
            params[f"lstm.{gate}_h"] = lecun(keys[6 + i], (self.width, self.width))
            params[f"lstm.{gate}_b"] = jnp.full(self.width, float(gate == "forget"))
        return params

    def batch(self, key: jax.Array, task: jax.Array) -> jax.Array:
        """Windows (batch_size, context + 1)."""
        starts = jax.random.randint(key, (self.batch_size, 1), 0, len(self.text) - self.context - 1)
        return self.text[starts + jnp.arange(self.context + 1)].astype(jnp.int32)

    def held_out(self, key: jax.Array, task: jax.Array) -> jax.Array:
        """Other windows of the same text."""
        return self.batch(key, task)

    def loss(self, params: Params, task: jax.Array, batch: jax.Array) -> jax.Array:
        gates = ("input", "forget", "cell", "output")
        x, h, b = (jnp.concatenate([params[f"lstm.{gate}_{kind}"] for gate in gates], -1) for kind in "xhb")
        inputs = params["token_embedding"][batch[:, :-1]] @ x + b  # of all steps at once
        zero = jnp.zeros((len(batch), self.width))

        def step(carry: tuple[jax.Array, jax.Array], inputs: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            output, cell = carry
            i, f, g, o = jnp.split(inputs + output @ h, 4, -1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            output = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return (output, cell), output

        _, outputs = jax.lax.scan(step, (zero, zero), inputs.swapaxes(0, 1))
        logits = outputs.swapaxes(0, 1) @ params["head.w"] + params["head.b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()
