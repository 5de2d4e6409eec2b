"""The Celo2 update rule (Moudgil, Knyazev, Belilovsky: Celo2, arXiv 2602.19142), written once.

Pure functions over an array namespace `xp` that is the module itself: numpy, jax.numpy or torch. A parameter is a batch
of matrices (..., a, b) with the short axis first (see `views`); a vector is the matrix (1, n). One step is `update`:

    accumulators of the gradient -> 30 channels an entry -> each channel to RMS 1 -> an MLP gives the direction
    -> Newton-Schulz makes it orthogonal -> RMS 1 gives it its size.

No state, no dtype or device decision, no learning rate, no control flow on values.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from celo2.rule.spec import Spec

Array = Any


class Weights(NamedTuple):
    """The learned numbers (theta): an MLP 30 -> hidden -> hidden -> 3, of which only output 0 is used."""

    w0: Array  # (30, hidden); rows in the order of TABLE
    b0: Array
    w1: Array  # (hidden, hidden)
    b1: Array
    w2: Array  # (hidden, 3)
    b2: Array


ENTRY, ROW, COLUMN = "entries", "rows", "columns"

TABLE = (
    ("G", 1, ENTRY),
    ("clip(G)", 1, ENTRY),
    ("W", 1, ENTRY),
    ("M", 3, ENTRY),
    ("V", 1, ENTRY),
    ("M s", 3, ENTRY),
    ("s", 1, ENTRY),
    ("G F", 3, ENTRY),
    ("G s", 1, ENTRY),
    ("R", 3, ROW),  # from here on matrices only: a vector has the 15 channels above
    ("C", 3, COLUMN),
    ("1/sqrt(R)", 3, ROW),
    ("1/sqrt(C)", 3, COLUMN),
    ("M F", 3, ENTRY),
)
"""The paper's table of features, #0 to #13: name, channels, and whether it is constant along an axis. The MLP reads it in
this order; the functions below make and keep each kind in the order in which it comes here."""


class Accumulators(NamedTuple):
    """Running statistics of the gradient; all zero at first, never bias-corrected."""

    momentum: Array  # M_i: (3, ..., a, b)
    second_moment: Array  # V: (..., a, b)
    factored: tuple[Array, ...]  # matrix: R_i (3, ..., a, 1) and C_i (3, ..., 1, b); vector: D_i (3, 1, n)


class Channels(NamedTuple):
    """What the MLP reads, by kind. The constant kinds are never spread out over the matrix."""

    entries: list[Array]  # (..., a, b): 18 of a matrix, 15 of a vector
    rows: list[Array]  # (..., a, 1): 6, or none
    columns: list[Array]  # (..., 1, b): 6, or none


def init(xp: Any, spec: Spec, p: Array, vector: bool = False) -> Accumulators:
    """The accumulators of a parameter (..., a, b) that has not seen a gradient: zeros of its dtype, where it lies."""
    zero = xp.zeros_like(p)
    momentum = xp.stack([zero for _ in spec.momentum_decays])
    means = (zero,) if vector else (zero[..., :1], zero[..., :1, :])
    return Accumulators(momentum, zero, tuple(xp.stack([mean for _ in spec.factored_decays]) for mean in means))


def update(
    xp: Any,
    spec: Spec,
    theta: Weights,
    accumulators: Accumulators,
    g: Array,
    p: Array,
    orthogonalize: Callable[[Any, Spec, Array], Array] | None,
) -> tuple[Array, Accumulators]:
    """One step of the rule: (step of RMS 1 to be subtracted at the learning rate, new accumulators).

    `g` and `p` are (..., a, b) with a <= b. `orthogonalize` is the function of this file, a framework's own in its place,
    or None for Celo2-base and for vectors.
    """
    g = xp.clip(g, -spec.gradient_clip, spec.gradient_clip)
    accumulators = accumulate(xp, spec, accumulators, g)
    channels = features(xp, spec, accumulators, g, p)
    layer = fold(xp, spec, theta.w0, Channels(*(mean_squares(xp, kind) for kind in channels)))
    d = direction(xp, theta, layer, channels)
    if orthogonalize is not None:
        d = orthogonalize(xp, spec, d)
    return normalize(xp, spec, d, moved(xp, accumulators.momentum)), accumulators


def accumulate(xp: Any, spec: Spec, accumulators: Accumulators, g: Array) -> Accumulators:
    """The accumulators after one more gradient."""
    momentum, second_moment, factored = accumulators
    means = factored_means(xp, spec, g, vector=len(factored) == 1)
    return Accumulators(
        *accumulate_entries(xp, spec, momentum, second_moment, g), accumulate_factored(xp, spec, factored, means)
    )


def accumulate_entries(xp: Any, spec: Spec, momentum: Array, second_moment: Array, g: Array) -> tuple[Array, Array]:
    """M and V after one more gradient; entry by entry, so any tile of the matrix will do."""
    m, v = moving_averages(spec, momentum, second_moment, g)
    return xp.stack(m), v


def moving_averages(spec: Spec, m: Sequence[Array], v: Array, g: Array) -> tuple[list[Array], Array]:
    """The same with the three momenta one by one."""
    b = spec.second_moment_decay
    return decay(spec.momentum_decays, m, g), b * v + (1 - b) * g * g


def decay(decays: Sequence[float], means: Sequence[Array], new: Array) -> list[Array]:
    """Exponential moving averages, one a decay."""
    return [b * mean + (1 - b) * new for b, mean in zip(decays, means, strict=True)]


def factored_means(xp: Any, spec: Spec, g: Array, vector: bool) -> tuple[Array, ...]:
    """Means of the squared gradient along b and along a; of a vector, the squares themselves."""
    q = g * g + spec.factored_floor
    return (q,) if vector else tuple(xp.mean(q, axis=axis, keepdims=True) for axis in (-1, -2))


def accumulate_factored(xp: Any, spec: Spec, factored: Sequence[Array], means: Sequence[Array]) -> tuple[Array, ...]:
    """R and C (or D) after one more gradient with these means."""
    return tuple(xp.stack(decay(spec.factored_decays, old, new)) for old, new in zip(factored, means, strict=True))


def preconditioners(xp: Any, spec: Spec, factored: Sequence[Array]) -> tuple[Array, ...]:
    """Arrays whose product is F_i: the factored 1/sqrt of the second moment, as in Adafactor."""
    floor = spec.factored_epsilon
    if len(factored) == 1:
        return (1 / xp.sqrt(factored[0] + floor),)
    rows, columns = factored
    rows = rows / (xp.mean(rows, axis=-2, keepdims=True) + floor)
    return 1 / xp.sqrt(xp.clip(rows, floor, None)), 1 / xp.sqrt(xp.clip(columns, floor, None))


def features(xp: Any, spec: Spec, accumulators: Accumulators, g: Array, p: Array) -> Channels:
    """The channels of TABLE by kind, before their normalisation."""
    factors = preconditioners(xp, spec, accumulators.factored)
    rows, columns = constant_channels(xp, spec, accumulators.factored)
    return Channels(entry_channels(xp, spec, accumulators, factors, g, p), rows, columns)


def entry_channels(
    xp: Any, spec: Spec, accumulators: Accumulators, preconditioners: Sequence[Array], g: Array, p: Array
) -> list[Array]:
    """The channels that differ from entry to entry (#0 to #8, #13); of a tile as of a whole matrix."""
    by_g, by_m = factored_channels(accumulators.momentum, preconditioners, g)
    if len(accumulators.factored) == 1:
        by_m = []
    return in_order(plain_channels(xp, spec, accumulators.momentum, accumulators.second_moment, g, p), by_g, by_m)


def plain_channels(xp: Any, spec: Spec, m: Sequence[Array], v: Array, g: Array, p: Array) -> list[Array]:
    """Those of them that need no factored moments (#0 to #6, #8): one look at an entry gives them."""
    s = 1 / xp.sqrt(v + spec.second_moment_epsilon)
    return [g, xp.clip(g, -spec.feature_clip, spec.feature_clip), p, *m, v, *(x * s for x in m), s, g * s]


def factored_channels(m: Sequence[Array], preconditioners: Sequence[Array], g: Array) -> tuple[list[Array], list[Array]]:
    """The gradient and the momenta, each times F_i (#7, #13)."""
    by_g, by_m = [g for _ in m], [*m]
    for factors in preconditioners:
        by_g, by_m = ([x * f for x, f in zip(each, factors, strict=True)] for each in (by_g, by_m))
    return by_g, by_m


def in_order(plain: list[Array], by_g: list[Array], by_m: list[Array]) -> list[Array]:
    """What belongs to the entry channels, in the order of TABLE."""
    return [*plain[:-1], *by_g, plain[-1], *by_m]


def constant_channels(xp: Any, spec: Spec, factored: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """The channels that are constant along b (#9, #11), and along a (#10, #12); a vector has none."""
    if len(factored) == 1:
        return [], []
    rows, columns = ([*f, *(1 / xp.sqrt(f + spec.second_moment_epsilon))] for f in factored)
    return rows, columns


def mean_squares(xp: Any, kind: list[Array]) -> list[Array]:
    """Mean of the square of each channel over its matrix, (..., 1, 1)."""
    return [xp.mean(x * x, axis=(-2, -1), keepdims=True) for x in kind]


def fold(xp: Any, spec: Spec, w0: Array, squares: Channels) -> Channels:
    """The first layer with the normalisation folded in: for each kind of channel its weights (..., channels, hidden).

    `squares` are the mean squares of the channels. Dividing 30 x hidden weights is what makes the normalisation free: no
    entry is touched.
    """
    return Channels(
        *(
            rows_of(xp, w0, kind)[: len(means)] / xp.sqrt(spec.normalize_epsilon + xp.concatenate(means, axis=-2))
            if means
            else []
            for kind, means in zip(Channels._fields, squares, strict=True)
        )
    )


def rows_of(xp: Any, w0: Array, kind: str) -> Array:
    """The rows of w0 that read one kind of channel, in the order of TABLE."""
    ends = itertools.accumulate(channels for _, channels, _ in TABLE)
    return xp.concatenate([w0[end - n : end] for (_, n, its_kind), end in zip(TABLE, ends, strict=True) if its_kind == kind])


def direction(xp: Any, theta: Weights, layer: Channels, channels: Channels) -> Array:
    """The MLP, entry by entry: output 0, (..., a, b). Channels lead, so that each product reads contiguous rows."""
    return later_layers(xp, theta, sum(first_layer(xp, w, kind) for w, kind in zip(layer, channels, strict=True) if kind))


def later_layers(xp: Any, theta: Weights, h: Array) -> Array:
    """What follows the products of the first layer: (..., hidden, a, b) -> (..., a, b)."""
    a, b = h.shape[-2:]
    h = xp.clip(h + theta.b0[:, None, None], 0, None)
    h = h.reshape(*h.shape[:-2], a * b)
    h = xp.clip(xp.swapaxes(theta.w1, 0, 1) @ h + theta.b1[:, None], 0, None)
    d = theta.w2[:, 0] @ h + theta.b2[0]
    return d.reshape(*d.shape[:-1], a, b)


def first_layer(xp: Any, w: Array, kind: list[Array]) -> Array:
    """One kind of channel through the first layer: weights (..., channels, hidden) -> (..., hidden, rows, columns)."""
    x = xp.stack(kind, axis=-3)
    rows, columns = x.shape[-2:]
    h = xp.swapaxes(w, -1, -2) @ x.reshape(*x.shape[:-2], rows * columns)
    return h.reshape(*h.shape[:-1], rows, columns)


def orthogonalize(xp: Any, spec: Spec, d: Array) -> Array:
    """Newton-Schulz: all singular values of d (..., a, b), a <= b, go to about 1 (Muon's quintic iteration)."""
    c1, c3, c5 = spec.newton_schulz_coefficients
    x = d / (xp.sqrt(xp.sum(d * d, axis=(-2, -1), keepdims=True)) + spec.newton_schulz_epsilon)
    for _ in range(spec.newton_schulz_iterations):
        gram = x @ xp.swapaxes(x, -1, -2)
        x = c1 * x + (c3 * gram + c5 * (gram @ gram)) @ x
    return x


def moved(xp: Any, momentum: Array) -> Array:
    """Whether each matrix ever saw a gradient, (..., 1, 1)."""
    return xp.sum(xp.abs(momentum), axis=(0, -2, -1), keepdims=True)[0] > 0


def normalize(xp: Any, spec: Spec, d: Array, moved: Array) -> Array:
    """RMS 1 over each matrix; zero for one that never saw a gradient (the one intended difference to the reference)."""
    return d * (moved / xp.sqrt(spec.normalize_epsilon + xp.mean(d * d, axis=(-2, -1), keepdims=True)))
