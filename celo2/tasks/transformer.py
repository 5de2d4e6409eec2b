"""A small transformer that predicts the next byte of a text."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from celo2.tasks.base import Params, Supervised, lecun
from celo2.tasks.layers import rms_norm, select
from celo2.tasks.text_sets import BYTES

HEAD_WIDTH = 32
"""Width of an attention head; narrower networks have one head."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ByteTransformer(Supervised):
    """Pre-norm blocks of causal attention and a GELU MLP; loss in nats per byte.

    Positions are learned and the head is not tied to the embedding.
    """

    width: int = dataclasses.field(default=64, metadata={"static": True})
    depth: int = dataclasses.field(default=2, metadata={"static": True})

    def init_params(self, key: jax.Array) -> Params:
        d = self.width
        keys = iter(jax.random.split(key, 3 + 6 * self.depth))
        params = {
            "token_embedding": 0.02 * jax.random.normal(next(keys), (BYTES, d)),
            "position_embedding": 0.02 * jax.random.normal(next(keys), (self.data.context, d)),
            "head.w": lecun(next(keys), (d, BYTES)),
            "norm": jnp.ones(d),
        }
        for i in range(self.depth):
            for name in ("query", "key", "value", "out"):
                params[f"blocks.{i}.{name}"] = lecun(next(keys), (d, d))
            params[f"blocks.{i}.up"] = lecun(next(keys), (d, 4 * d))
            params[f"blocks.{i}.down"] = lecun(next(keys), (4 * d, d))
            params |= {f"blocks.{i}.norm{j}": jnp.ones(d) for j in (1, 2)}
        return params

    def batch_loss(self, params: Params, batch: jax.Array) -> jax.Array:
        tokens, targets = batch[:, :-1], batch[:, 1:]
        h = params["token_embedding"][tokens] + params["position_embedding"]
        for i in range(self.depth):
            block = select(params, f"blocks.{i}")
            h = h + self._attention(block, rms_norm(h) * block["norm1"])
            h = h + jax.nn.gelu(rms_norm(h) * block["norm2"] @ block["up"]) @ block["down"]
        logits = rms_norm(h) * params["norm"] @ params["head.w"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def _attention(self, block: Params, h: jax.Array) -> jax.Array:
        width = min(HEAD_WIDTH, self.width)
        heads = (*h.shape[:-1], self.width // width, width)
        q, k, v = ((h @ block[name]).reshape(heads) for name in ("query", "key", "value"))
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return mixed.reshape(h.shape) @ block["out"]
