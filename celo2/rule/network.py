"""The learned part: an MLP per entry, the normalization of its inputs folded into its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from celo2.rule.features import Channels, channel_count, kind_rows
from celo2.rule.spec import Spec

Array = Any
OUTPUTS = 3
"""Outputs of the published MLP, of which only the first, the direction, is used."""


class Weights(NamedTuple):
    """The learned numbers (theta): an MLP channels -> hidden -> hidden -> 3 with ReLU."""

    w0: Array  # (channels, hidden); rows in the order of the spec's features
    b0: Array  # (hidden,)
    w1: Array  # (hidden, hidden)
    b1: Array  # (hidden,)
    w2: Array  # (hidden, 3)
    b2: Array  # (3,)


def shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of `Weights`."""
    c, h = channel_count(spec), spec.hidden
    return {
        "w0": (c, h),
        "b0": (h,),
        "w1": (h, h),
        "b1": (h,),
        "w2": (h, OUTPUTS),
        "b2": (OUTPUTS,),
    }


def mean_squares(xp: Any, channels: Sequence[Array]) -> list[Array]:
    """Return the mean square of each channel over its matrix, (..., 1, 1)."""
    return [xp.mean(x * x, axis=(-2, -1), keepdims=True) for x in channels]


def fold(xp: Any, spec: Spec, w0: Array, squares: Channels, vector: bool = False) -> Channels:
    """Return the first layer with the normalization folded in: per kind (..., channels, hidden).

    Dividing the weights by the RMS of the channel they read is what makes the normalization free:
    no entry is touched.

    Args:
        xp: array namespace.
        spec: constants of the rule.
        w0: first layer, (channels, hidden).
        squares: mean squares of the channels.
        vector: whether they are those of a vector, which lacks some features.
    """
    layers = []
    for kind, means in zip(Channels._fields, squares, strict=True):
        if not means:
            layers.append([])
            continue
        norms = xp.sqrt(spec.normalize_epsilon + xp.concatenate(means, axis=-2))
        layers.append(kind_rows(xp, spec, w0, kind, vector) / norms)
    return Channels(*layers)


def direction(xp: Any, theta: Weights, layer: Channels, channels: Channels) -> Array:
    """Return output 0 of the MLP for every entry, (..., a, b), by matrix products.

    Channels lead, so that each product reads contiguous rows.
    """
    h = 0
    for w, kind in zip(layer, channels, strict=True):
        if kind:
            h = h + first_layer(xp, w, kind)
    return later_layers(xp, theta, h)


def first_layer(xp: Any, w: Array, channels: Sequence[Array]) -> Array:
    """Multiply one kind of channel by its weights (..., channels, hidden): (..., hidden, a, b)."""
    x = xp.stack(channels, axis=-3)
    rows, columns = x.shape[-2:]
    h = xp.swapaxes(w, -1, -2) @ x.reshape(*x.shape[:-2], rows * columns)
    return h.reshape(*h.shape[:-1], rows, columns)


def later_layers(xp: Any, theta: Weights, h: Array) -> Array:
    """Return what follows the products of the first layer: (..., hidden, a, b) -> (..., a, b)."""
    a, b = h.shape[-2:]
    _, second = hidden_layers(xp, theta, h)
    d = theta.w2[:, 0] @ second + theta.b2[0]
    return d.reshape(*d.shape[:-1], a, b)


def hidden_layers(xp: Any, theta: Weights, h: Array) -> tuple[Array, Array]:
    """Return both hidden layers after the ReLU, (..., hidden, a b), from products of the first."""
    a, b = h.shape[-2:]
    first = xp.clip(h + theta.b0[:, None, None], 0, None)
    first = first.reshape(*first.shape[:-2], a * b)
    second = xp.clip(xp.swapaxes(theta.w1, 0, 1) @ first + theta.b1[:, None], 0, None)
    return first, second


def entrywise_direction(
    xp: Any, theta: Weights, layer: Array, sides: Sequence[Array], channels: Sequence[Array]
) -> Array:
    """Return `direction` written entry by entry: nothing is stacked.

    A compiler that fuses element-wise operations keeps each entry in registers.

    Args:
        xp: array namespace.
        theta: learned numbers.
        layer: folded first layer of the channels of entries, (..., channels, hidden).
        sides: products of the first layer with the channels along the sides, broadcasting to
            (..., hidden, a, b).
        channels: the channels of entries, (..., a, b) each.
    """
    w = layer[..., None, None]
    units = range(theta.w1.shape[0])
    first = []
    for k in units:
        h = theta.b0[k]
        for side in sides:
            h = h + side[..., k, :, :]
        for c, channel in enumerate(channels):
            h = h + w[..., c, k, :, :] * channel
        first.append(xp.clip(h, 0, None))
    d = theta.b2[0]
    for k in units:
        h = theta.b1[k]
        for j in units:
            h = h + theta.w1[j, k] * first[j]
        d = d + theta.w2[k, 0] * xp.clip(h, 0, None)
    return d
