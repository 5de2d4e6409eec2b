"""A residual network with GroupNorm."""

from __future__ import annotations

import dataclasses

import jax

from celo2.tasks.base import Params
from celo2.tasks.classifier import Classifier, as_squares
from celo2.tasks.layers import group_norm, linear, linear_params, norm_params, patches, select

GROUP_WIDTH = 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ResNet(Classifier):
    """A stem of stride 2, and one pre-activation block per width (He et al. 2016).

    Each block but the first halves the sides. Kernels are matrices (9 * in, out) of patches.
    """

    channels: int = dataclasses.field(default=3, metadata={"static": True})
    widths: tuple[int, ...] = dataclasses.field(default=(24, 48, 96), metadata={"static": True})

    def init_params(self, key: jax.Array) -> Params:
        stem_key, head_key, *keys = jax.random.split(key, 2 + len(self.widths))
        first, last, he = self.widths[0], self.widths[-1], 2**0.5
        params = linear_params(stem_key, "stem", (9 * self.channels, first))
        params |= norm_params("norm", last)
        params |= linear_params(head_key, "head", (last, self.data.classes))
        fan_in = first
        for i, (block_key, width) in enumerate(zip(keys, self.widths, strict=True)):
            a, b, c = jax.random.split(block_key, 3)
            name = f"blocks.{i}"
            params |= norm_params(f"{name}.norm1", fan_in) | norm_params(f"{name}.norm2", width)
            params |= linear_params(a, f"{name}.conv1", (9 * fan_in, width), he)
            params |= linear_params(b, f"{name}.conv2", (9 * width, width), he)
            if width != fan_in:
                params |= linear_params(c, f"{name}.shortcut", (fan_in, width))
            fan_in = width
        return params

    def logits(self, params: Params, images: jax.Array) -> jax.Array:
        h = linear(params, "stem", patches(as_squares(images, self.channels), stride=2))
        for i in range(len(self.widths)):
            h = _block(select(params, f"blocks.{i}"), h, stride=1 if i == 0 else 2)
        return linear(params, "head", _norm_relu(params, "norm", h).mean((1, 2)))


def _block(block: Params, x: jax.Array, stride: int) -> jax.Array:
    h = _norm_relu(block, "norm1", x)
    skipped = x[:, ::stride, ::stride]
    if "shortcut.w" in block:
        skipped = linear(block, "shortcut", h[:, ::stride, ::stride])
    h = linear(block, "conv1", patches(h, stride))
    return skipped + linear(block, "conv2", patches(_norm_relu(block, "norm2", h)))


def _norm_relu(params: Params, name: str, x: jax.Array) -> jax.Array:
    return jax.nn.relu(group_norm(params, name, x, x.shape[-1] // GROUP_WIDTH))
