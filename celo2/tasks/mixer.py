"""An MLP-Mixer (Tolstikhin et al. 2021)."""

from __future__ import annotations

import dataclasses

import jax

from celo2.tasks.base import Params
from celo2.tasks.classifier import Classifier, as_squares
from celo2.tasks.layers import layer_norm, linear, linear_params, norm_params, select, tiles


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixer(Classifier):
    """Blocks of two MLPs, one across the tiles of an image and one across channels."""

    channels: int = dataclasses.field(default=1, metadata={"static": True})
    tile: int = dataclasses.field(default=4, metadata={"static": True})
    width: int = dataclasses.field(default=64, metadata={"static": True})
    depth: int = dataclasses.field(default=3, metadata={"static": True})

    def init_params(self, key: jax.Array) -> Params:
        patch_key, head_key, *keys = jax.random.split(key, 2 + self.depth)
        inputs = self.tile**2 * self.channels
        tokens = self.data.pixels // inputs
        params = linear_params(patch_key, "patch", (inputs, self.width))
        for i, block_key in enumerate(keys):
            token_key, channel_key = jax.random.split(block_key)
            params |= _mlp_params(token_key, f"blocks.{i}.tokens", tokens, self.width)
            params |= _mlp_params(channel_key, f"blocks.{i}.channels", self.width, 4 * self.width)
            params |= norm_params(f"blocks.{i}.norm1", self.width)
            params |= norm_params(f"blocks.{i}.norm2", self.width)
        params |= norm_params("norm", self.width)
        return params | linear_params(head_key, "head", (self.width, self.data.classes))

    def logits(self, params: Params, images: jax.Array) -> jax.Array:
        h = linear(params, "patch", tiles(as_squares(images, self.channels), self.tile))
        for i in range(self.depth):
            block = select(params, f"blocks.{i}")
            across = layer_norm(block, "norm1", h).swapaxes(1, 2)
            h = h + _mlp(block, "tokens", across).swapaxes(1, 2)
            h = h + _mlp(block, "channels", layer_norm(block, "norm2", h))
        return linear(params, "head", layer_norm(params, "norm", h).mean(1))


def _mlp_params(key: jax.Array, name: str, width: int, hidden: int) -> Params:
    up, down = jax.random.split(key)
    params = linear_params(up, f"{name}.up", (width, hidden))
    return params | linear_params(down, f"{name}.down", (hidden, width))


def _mlp(params: Params, name: str, x: jax.Array) -> jax.Array:
    return linear(params, f"{name}.down", jax.nn.gelu(linear(params, f"{name}.up", x)))
