"""One update of the rule: accumulate -> features -> network -> finish.

With gradient G of the matrix W (arXiv 2602.19142, section 3 and appendix):

    M_i <- b_i M_i + (1 - b_i) G                     momenta
    V   <- b V + (1 - b) G^2                         second moment
    R_i, C_i <- decayed means of G^2 + floor         along columns and along rows
    x_c <- x_c / RMS(x_c)                            each channel c of the features
    D   <- MLP(x) per entry                          direction
    D   <- Newton-Schulz(D)                          singular values to about 1
    U   <- D / RMS(D)                                update, subtracted at the learning rate
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from celo2.rule import features
from celo2.rule.features import Channels
from celo2.rule.finish import has_history, normalize
from celo2.rule.network import Weights, direction, fold, mean_squares
from celo2.rule.spec import Spec

Array = Any


class Accumulators(NamedTuple):
    """Running statistics of the gradient; all zero at first, never bias-corrected."""

    averages: Array  # M_i, then V if a feature reads it: (averages, ..., a, b)
    # Of a matrix R_i (k, ..., a, 1) and C_i (k, ..., 1, b); of a vector D_i (k, 1, n).
    factored: tuple[Array, ...]


def init(xp: Any, spec: Spec, p: Array, vector: bool = False) -> Accumulators:
    """Return the accumulators of a parameter (..., a, b) before its first gradient.

    They are zeros of its dtype, on its device; `vector` marks the row of a one-axis parameter.
    """
    zero = xp.zeros_like(p)
    k = len(spec.factored_decays)
    means = (zero,) if vector else (zero[..., :1], zero[..., :1, :])
    factored = tuple(xp.stack([mean] * k) for mean in means)
    return Accumulators(xp.stack([zero] * features.average_count(spec)), factored)


def update(
    xp: Any,
    spec: Spec,
    theta: Weights,
    accumulators: Accumulators,
    g: Array,
    p: Array,
    orthogonalize: Callable[[Any, Spec, Array], Array] | None,
    active: Array | None = None,
) -> tuple[Array, Accumulators]:
    """Return the update of RMS 1, to be subtracted at the learning rate, and the new accumulators.

    Args:
        xp: array namespace: numpy, jax.numpy or torch.
        spec: constants of the rule.
        theta: learned numbers.
        accumulators: running statistics before this gradient.
        g: gradient, (..., a, b) with a <= b.
        p: parameter, (..., a, b).
        orthogonalize: `celo2.rule.orthogonalize`, a framework's own in its place, or None for
            Celo2-base and for vectors.
        active: (..., 1, 1) bool; where it is False the update is 0 and the accumulators stay as
            they were. None: every matrix is active.
    """
    d, new = propose(xp, spec, theta, accumulators, g, p, orthogonalize)
    moves = has_history(xp, features.split_averages(spec, new.averages)[0])
    if active is None:
        return normalize(xp, spec, d, moves), new
    return normalize(xp, spec, d, moves & active), keep_inactive(xp, active, new, accumulators)


def propose(
    xp: Any,
    spec: Spec,
    theta: Weights,
    accumulators: Accumulators,
    g: Array,
    p: Array,
    orthogonalize: Callable[[Any, Spec, Array], Array] | None,
) -> tuple[Array, Accumulators]:
    """Return the direction before its normalization, and the new accumulators; see `update`."""
    g = xp.clip(g, -spec.gradient_clip, spec.gradient_clip)
    new = accumulate(xp, spec, accumulators, g)
    channels = compute_features(xp, spec, new, g, p)
    rows, columns = mean_squares(xp, channels.rows), mean_squares(xp, channels.columns)
    squares = Channels(mean_squares(xp, channels.entries), rows, columns)
    layer = fold(xp, spec, theta.w0, squares, vector=len(new.factored) == 1)
    d = direction(xp, theta, layer, channels)
    return d if orthogonalize is None else orthogonalize(xp, spec, d), new


def accumulate(xp: Any, spec: Spec, accumulators: Accumulators, g: Array) -> Accumulators:
    """Return the accumulators after one more gradient."""
    averages, factored = accumulators
    new = xp.stack(moving_averages(spec, averages, g))
    means = factored_means(xp, spec, g, vector=len(factored) == 1)
    return Accumulators(new, accumulate_factored(xp, spec, factored, means))


def moving_averages(spec: Spec, averages: Sequence[Array], g: Array) -> list[Array]:
    """Return the momenta M_i, and V, after one more gradient; of a tile as of a whole matrix."""
    m, v = features.split_averages(spec, averages)
    new = decay(spec.momentum_decays, m, g)
    return new if v is None else [*new, second_moment(spec, v, g)]


def second_moment(spec: Spec, v: Array, g: Array) -> Array:
    """Return V after one more gradient."""
    b = spec.second_moment_decay
    return b * v + (1 - b) * g * g


def decay(decays: Sequence[float], means: Sequence[Array], new: Array) -> list[Array]:
    """Return exponential moving averages, one per decay."""
    return [b * mean + (1 - b) * new for b, mean in zip(decays, means, strict=True)]


def factored_means(xp: Any, spec: Spec, g: Array, vector: bool) -> tuple[Array, ...]:
    """Return the means of the squared gradient along b and along a; of a vector, the squares."""
    q = g * g + spec.factored_floor
    if vector:
        return (q,)
    return xp.mean(q, axis=-1, keepdims=True), xp.mean(q, axis=-2, keepdims=True)


def accumulate_factored(
    xp: Any, spec: Spec, factored: Sequence[Array], means: Sequence[Array]
) -> tuple[Array, ...]:
    """Return R and C (or D) after one more gradient with these means."""
    new = []
    for old, mean in zip(factored, means, strict=True):
        new.append(xp.stack(decay(spec.factored_decays, old, mean)))
    return tuple(new)


def compute_features(
    xp: Any, spec: Spec, accumulators: Accumulators, g: Array, p: Array
) -> Channels:
    """Return the channels of the spec's features by kind, before their normalization."""
    averages, factored = accumulators
    m, v = features.split_averages(spec, averages)
    plain = features.plain_channels(xp, spec, m, v, g, p)
    factors = features.preconditioners(xp, spec, factored)
    multiplied = features.factored_channels(xp, spec, m, factors, g)
    rows, columns = features.side_channels(xp, spec, factored)
    return Channels(features.in_order(spec, plain, multiplied), rows, columns)


def keep_inactive(xp: Any, active: Array, new: Accumulators, old: Accumulators) -> Accumulators:
    """Return the new accumulators of matrices that are active, and the old ones of all others."""
    return Accumulators(
        xp.where(active, new.averages, old.averages),
        tuple(xp.where(active, x, y) for x, y in zip(new.factored, old.factored, strict=True)),
    )
