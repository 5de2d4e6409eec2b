"""A vision transformer."""

from __future__ import annotations

import dataclasses

import jax

from celo2.tasks.base import Params
from celo2.tasks.blocks import apply_blocks, blocks_params
from celo2.tasks.classifier import Classifier, as_squares
from celo2.tasks.layers import layer_norm, linear, linear_params, norm_params, tiles


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ViT(Classifier):
    """Tiles of the image as tokens with learned positions, and a head on their mean."""

    channels: int = dataclasses.field(default=3, metadata={"static": True})
    tile: int = dataclasses.field(default=4, metadata={"static": True})
    width: int = dataclasses.field(default=64, metadata={"static": True})
    depth: int = dataclasses.field(default=2, metadata={"static": True})

    def init_params(self, key: jax.Array) -> Params:
        keys = jax.random.split(key, 4)
        inputs = self.tile**2 * self.channels
        positions = (self.data.pixels // inputs, self.width)
        params = linear_params(keys[0], "patch", (inputs, self.width))
        params["position_embedding"] = 0.02 * jax.random.normal(keys[1], positions)
        params |= blocks_params(keys[2], self.depth, self.width)
        params |= norm_params("norm", self.width)
        return params | linear_params(keys[3], "head", (self.width, self.data.classes))

    def logits(self, params: Params, images: jax.Array) -> jax.Array:
        tokens = tiles(as_squares(images, self.channels), self.tile)
        h = linear(params, "patch", tokens) + params["position_embedding"]
        h = apply_blocks(params, self.depth, h, causal=False)
        return linear(params, "head", layer_norm(params, "norm", h).mean(1))
