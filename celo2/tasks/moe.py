"""A mixture-of-experts transformer with rotary positions."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from celo2.tasks.base import Metrics, ModelState, Params, Supervised, lecun
from celo2.tasks.blocks import HEAD_WIDTH, attention
from celo2.tasks.layers import rms_norm, select

BALANCE = 0.01
"""Weight of the load-balancing loss (Switch Transformer, equation 4)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MixtureOfExperts(Supervised):
    """Blocks whose MLP is a few of several SwiGLU experts, chosen per token by a router.

    Trained on nats per token plus the load-balancing loss, evaluated on the former alone. All
    experts run on all tokens, which is fastest where they are as small as here.
    """

    width: int = dataclasses.field(default=64, metadata={"static": True})
    depth: int = dataclasses.field(default=2, metadata={"static": True})
    experts: int = dataclasses.field(default=4, metadata={"static": True})
    chosen: int = dataclasses.field(default=2, metadata={"static": True})
    """Experts per token."""

    def init_params(self, key: jax.Array) -> Params:
        d, vocabulary = self.width, self.data.vocabulary
        keys = iter(jax.random.split(key, 2 + 8 * self.depth))
        params = {
            "token_embedding": 0.02 * jax.random.normal(next(keys), (vocabulary, d)),
            "head.w": lecun(next(keys), (d, vocabulary)),
            "norm": jnp.ones(d),
        }
        for i in range(self.depth):
            for name in ("query", "key", "value", "out"):
                params[f"blocks.{i}.{name}"] = lecun(next(keys), (d, d))
            params[f"blocks.{i}.router"] = lecun(next(keys), (d, self.experts))
            for name, shape in {"gate": (d, d), "up": (d, d), "down": (d, d)}.items():
                each = jax.random.split(next(keys), self.experts)
                drawn = jnp.stack([lecun(expert_key, shape) for expert_key in each])
                params[f"blocks.{i}.experts.{name}"] = drawn
            params |= {f"blocks.{i}.norm{j}": jnp.ones(d) for j in (1, 2)}
        return params

    def batch_loss(self, params: Params, batch: jax.Array) -> jax.Array:
        cross_entropy, balance = self.losses(params, batch)
        return cross_entropy + BALANCE * balance

    def evaluate(
        self, params: Params, state: ModelState, task: jax.Array, key: jax.Array
    ) -> Metrics:
        batch = self.data.held_out_batch(key, task)
        cross_entropy, balance = self.losses(params, batch)
        return {"loss": cross_entropy, "balance": balance}

    def losses(self, params: Params, batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return nats per token and the mean load-balancing loss, 1 where the load is even."""
        h, balance = params["token_embedding"][batch[:, :-1]], jnp.zeros(())
        for i in range(self.depth):
            block = select(params, f"blocks.{i}")
            x = rms_norm(h) * block["norm1"]
            q, k = (rotated(x @ block[name]) for name in ("query", "key"))
            h = h + attention(q, k, x @ block["value"], causal=True) @ block["out"]
            x = rms_norm(h) * block["norm2"]
            probabilities = jax.nn.softmax(x @ block["router"])
            weights = routing(probabilities, self.chosen)
            h = h + mixture(select(block, "experts"), weights, x)
            balance = balance + load_balance(probabilities, weights) / self.depth
        logits = rms_norm(h) * params["norm"] @ params["head.w"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:])
        return losses.mean(), balance


def routing(probabilities: jax.Array, chosen: int) -> jax.Array:
    """Keep the largest of the experts' probabilities (..., experts) and make them sum to 1."""
    smallest_kept = jax.lax.top_k(probabilities, chosen)[0][..., -1:]
    kept = jnp.where(probabilities >= smallest_kept, probabilities, 0)
    return kept / kept.sum(-1, keepdims=True)


def load_balance(probabilities: jax.Array, weights: jax.Array) -> jax.Array:
    """Compute experts * sum over experts of (fraction of choices * mean probability)."""
    experts = probabilities.shape[-1]
    chosen = (weights > 0).reshape(-1, experts).mean(0)
    fraction = chosen / chosen.sum()
    return experts * jnp.sum(fraction * probabilities.reshape(-1, experts).mean(0))


def mixture(experts: Params, weights: jax.Array, x: jax.Array) -> jax.Array:
    """Sum the experts' outputs for tokens x (n, length, width) by weights (n, length, experts)."""
    gate, up = (jnp.einsum("ntd,edf->entf", x, experts[name]) for name in ("gate", "up"))
    hidden = jax.nn.silu(gate) * up * weights.transpose(2, 0, 1)[..., None]
    return jnp.einsum("entf,efd->ntd", hidden, experts["down"])


def rotated(x: jax.Array) -> jax.Array:
    """Rotate pairs of the channels of each head by angles that grow with the position (RoPE)."""
    n, length, width = x.shape
    frequencies = 10_000.0 ** (-jnp.arange(0, HEAD_WIDTH, 2) / HEAD_WIDTH)
    angles = (jnp.arange(length)[:, None] * frequencies)[:, None]
    a, b = jnp.split(x.reshape(n, length, width // HEAD_WIDTH, HEAD_WIDTH), 2, -1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)
