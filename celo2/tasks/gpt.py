"""A GPT: a decoder-only transformer with a tied head, as GPT-2."""

from __future__ import annotations

import dataclasses

import jax
import optax

from celo2.tasks.base import Params, Supervised
from celo2.tasks.blocks import apply_blocks, blocks_params
from celo2.tasks.layers import layer_norm, norm_params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GPT(Supervised):
    """Learned positions, LayerNorm, one matrix for queries, keys and values; nats per token."""

    width: int = dataclasses.field(default=96, metadata={"static": True})
    depth: int = dataclasses.field(default=2, metadata={"static": True})

    def init_params(self, key: jax.Array) -> Params:
        tokens_key, positions_key, blocks_key = jax.random.split(key, 3)
        tokens, positions = (self.data.vocabulary, self.width), (self.data.context, self.width)
        params = {
            "token_embedding": 0.02 * jax.random.normal(tokens_key, tokens),
            "position_embedding": 0.02 * jax.random.normal(positions_key, positions),
        }
        params |= blocks_params(blocks_key, self.depth, self.width)
        return params | norm_params("norm", self.width)

    def logits(self, params: Params, tokens: jax.Array) -> jax.Array:
        """Compute (n, length, vocabulary) from tokens (n, length)."""
        h = params["token_embedding"][tokens] + params["position_embedding"]
        h = layer_norm(params, "norm", apply_blocks(params, self.depth, h, causal=True))
        return h @ params["token_embedding"].T

    def batch_loss(self, params: Params, batch: jax.Array) -> jax.Array:
        logits = self.logits(params, batch[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()
