"""A small U-Net that removes noise from images: a diffusion model."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from celo2.tasks.base import Params, Supervised
from celo2.tasks.classifier import as_squares
from celo2.tasks.layers import (
    group_norm,
    linear,
    linear_params,
    norm_params,
    patches,
    select,
    tiles,
)
from celo2.tasks.noise import NoisyExamples

TILE = 2
"""Side of the squares of pixels that are the channels of the network's input."""
GROUP_WIDTH = 8
TIME_WIDTH = 32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UNet(Supervised):
    """Two resolutions, one residual block on the way down, below and on the way up.

    An image x and noise e are mixed by the cosine schedule, cos(pi t / 2) x + sin(pi t / 2) e, and
    the network predicts cos(pi t / 2) e - sin(pi t / 2) x (Salimans and Ho 2022); the loss is the
    mean squared error. The data's noise has the width of an image of one channel.
    """

    width: int = dataclasses.field(default=24, metadata={"static": True})

    def init_params(self, key: jax.Array) -> Params:
        keys, w = jax.random.split(key, 8), self.width
        params = linear_params(keys[0], "first", (9 * TILE**2, w))
        params |= linear_params(keys[1], "time", (TIME_WIDTH, 2 * w))
        params |= _block_params(keys[2], "down", w, w, 2 * w)
        params |= linear_params(keys[3], "halve", (9 * w, 2 * w))
        params |= _block_params(keys[4], "below", 2 * w, 2 * w, 2 * w)
        params |= linear_params(keys[5], "double", (2 * w, w))
        params |= _block_params(keys[6], "up", 2 * w, w, 2 * w)
        params |= norm_params("norm", w)
        return params | linear_params(keys[7], "head", (w, TILE**2))

    def batch_loss(self, params: Params, batch: NoisyExamples) -> jax.Array:
        x, e = as_squares(batch.images, 1), batch.noise
        e = e.reshape(x.shape)
        angle = jnp.pi / 2 * batch.time[:, None, None, None]
        mixed = jnp.cos(angle) * x + jnp.sin(angle) * e
        target = _as_channels(jnp.cos(angle) * e - jnp.sin(angle) * x)
        return jnp.square(self.prediction(params, _as_channels(mixed), batch.time) - target).mean()

    def prediction(self, params: Params, mixed: jax.Array, time: jax.Array) -> jax.Array:
        """Predict the target (n, side, side, 4) from mixed images of this shape."""
        at = jax.nn.silu(linear(params, "time", _waves(time)))
        high = _block(select(params, "down"), linear(params, "first", patches(mixed)), at)
        low = linear(params, "halve", patches(high, stride=2))
        low = linear(params, "double", _block(select(params, "below"), low, at))
        low = low.repeat(2, axis=1).repeat(2, axis=2)
        h = _block(select(params, "up"), jnp.concatenate([high, low], -1), at)
        return linear(params, "head", _norm_silu(params, "norm", h))


def _block_params(key: jax.Array, name: str, fan_in: int, width: int, time: int) -> Params:
    keys = jax.random.split(key, 4)
    params = norm_params(f"{name}.norm1", fan_in) | norm_params(f"{name}.norm2", width)
    params |= linear_params(keys[0], f"{name}.conv1", (9 * fan_in, width))
    params |= linear_params(keys[1], f"{name}.conv2", (9 * width, width))
    params |= linear_params(keys[2], f"{name}.time", (time, width))
    if fan_in != width:
        params |= linear_params(keys[3], f"{name}.shortcut", (fan_in, width))
    return params


def _block(block: Params, x: jax.Array, at: jax.Array) -> jax.Array:
    """Apply two convolutions to x (n, h, w, channels), the time `at` (n, width) between them."""
    h = linear(block, "conv1", patches(_norm_silu(block, "norm1", x)))
    h = h + linear(block, "time", at)[:, None, None]
    h = linear(block, "conv2", patches(_norm_silu(block, "norm2", h)))
    return h + (linear(block, "shortcut", x) if "shortcut.w" in block else x)


def _norm_silu(params: Params, name: str, x: jax.Array) -> jax.Array:
    return jax.nn.silu(group_norm(params, name, x, x.shape[-1] // GROUP_WIDTH))


def _as_channels(x: jax.Array) -> jax.Array:
    """Move squares of pixels into channels: (n, side, side, 1) to (n, side/2, side/2, 4)."""
    return tiles(x, TILE).reshape(len(x), x.shape[1] // TILE, x.shape[2] // TILE, -1)


def _waves(time: jax.Array) -> jax.Array:
    """Represent times (n,) by sines and cosines (n, TIME_WIDTH) of frequencies 1 to 1000."""
    frequencies = jnp.exp(jnp.linspace(0, math.log(1000), TIME_WIDTH // 2))
    angles = time[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
