"""An LSTM that predicts the next byte of a text."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from celo2.tasks.base import Params, lecun
from celo2.tasks.byte_text import BYTES, OnBytes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ByteLSTM(OnBytes):
    """Embedding, one layer with a forget bias of 1, a linear head. One task; loss in nats a byte."""

    embedding_width: int = dataclasses.field(default=64, metadata={"static": True})
    width: int = dataclasses.field(default=96, metadata={"static": True})
    context: int = dataclasses.field(default=32, metadata={"static": True})
    batch_size: int = dataclasses.field(default=32, metadata={"static": True})

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
