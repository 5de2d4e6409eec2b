"""Pre-norm transformer blocks, as in GPT-2 and the vision transformer."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from celo2.tasks.base import Params
from celo2.tasks.layers import layer_norm, linear, linear_params, norm_params, select

HEAD_WIDTH = 32


def blocks_params(key: jax.Array, depth: int, width: int) -> Params:
    """Initialize `depth` blocks; what is added to the residual stream starts smaller, as in GPT-2.

    Queries, keys and values are one matrix (width, 3 width).
    """
    params, residual = {}, (2 * depth) ** -0.5
    for i, block_key in enumerate(jax.random.split(key, depth)):
        name, keys = f"blocks.{i}", jax.random.split(block_key, 4)
        params |= norm_params(f"{name}.norm1", width) | norm_params(f"{name}.norm2", width)
        params |= linear_params(keys[0], f"{name}.qkv", (width, 3 * width))
        params |= linear_params(keys[1], f"{name}.out", (width, width), residual)
        params |= linear_params(keys[2], f"{name}.up", (width, 4 * width))
        params |= linear_params(keys[3], f"{name}.down", (4 * width, width), residual)
    return params


def apply_blocks(params: Params, depth: int, h: jax.Array, causal: bool) -> jax.Array:
    """Run tokens (n, length, width) through the blocks."""
    for i in range(depth):
        block = select(params, f"blocks.{i}")
        qkv = linear(block, "qkv", layer_norm(block, "norm1", h))
        h = h + linear(block, "out", attention(*jnp.split(qkv, 3, -1), causal))
        h = h + linear(
            block, "down", jax.nn.gelu(linear(block, "up", layer_norm(block, "norm2", h)))
        )
    return h


def attention(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    """Attend with heads of width 32: three (n, length, width) to one."""
    heads = (*q.shape[:-1], q.shape[-1] // HEAD_WIDTH, HEAD_WIDTH)
    mixed = jax.nn.dot_product_attention(
        q.reshape(heads), k.reshape(heads), v.reshape(heads), is_causal=causal
    )
    return mixed.reshape(q.shape)
