"""The direction of the rule for a batch of matrices: its element-wise work, in tiles of rows.

The formulas are those of `celo2.rule`, cut where a number depends on the whole matrix; between the
cuts XLA fuses everything into loops over the elements of a tile, which fits the cache. Matrices are
in memory order (..., m, n), whichever side is fan-in: what the rule knows per side is transposed
instead. Where a feature has a channel per decay, all of them are one array with a leading axis: the
compiler's work grows with the number of arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo2 import rule
from celo2.jax.stochastic_rounding import noise, rounded
from celo2.jax.tiles import Parts, largest_divisor, over_tiles, put, sum_over_tiles, take
from celo2.rule import Channels, Spec, Weights


class Entries(NamedTuple):
    """What is known per element of some rows of matrices, in float32 or wider."""

    m: jax.Array
    """(momenta, ..., m, n); all others are (..., m, n)."""
    v: jax.Array | None
    """None where no feature reads it."""
    g: jax.Array
    """Gradient, clamped; 0 where the matrix is not active."""
    p: jax.Array

    def plain_channels(self, spec: Spec) -> list[jax.Array]:
        """Return the channels that need no factored moments, one array per feature."""
        return rule.plain_channels(jnp, spec, [self.m], self.v, self.g, self.p)

    def factored_channels(self, spec: Spec, factors: Sequence[jax.Array]) -> list[jax.Array]:
        """Return the channels that are multiplied by F_i, one array per feature."""
        return rule.factored_channels(jnp, spec, [self.m], [f[None] for f in factors], self.g)


class Batch(NamedTuple):
    """N matrices of one shape, in memory order, and their running statistics."""

    averages: jax.Array
    """Momenta, and V if a feature reads it: (averages, N, m, n)."""
    factored: tuple[jax.Array, ...]
    """R and C as in `Accumulators`, (k, N, a, 1) and (k, N, 1, b); of a vector D."""
    g: jax.Array
    p: jax.Array
    active: jax.Array
    """Whether each matrix has a gradient that counts, (N, 1, 1) bool."""
    transposed: bool
    """Whether m is the longer side b of the rule."""

    here: tuple[Any, int]
    """Which of the N matrices are worked on: part i, of that many; `factored` and `active` have
    these alone. The large arrays stay whole: a part of them would be a copy."""

    step: jax.Array
    """Number of this step, from 1, int32: of the random bits of state in bfloat16."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the number of matrices that are worked on, m and n."""
        _, m, n = self.g.shape
        return self.here[1], m, n

    def part(self, i: Any, count: int) -> Batch:
        """Return part i of the matrices, `count` of them."""
        where = {-3: (i, count)}
        factored = tuple(take(x, where) for x in self.factored)
        return self._replace(here=(i, count), factored=factored, active=take(self.active, where))

    def entries(self, spec: Spec, i: Any, rows: int) -> Entries:
        """Return tile i of the elements."""
        dtype, where = self.factored[0].dtype, self.tile(i, rows)
        averages, g, p = (take(x, where).astype(dtype) for x in (self.averages, self.g, self.p))
        m, v = rule.split_averages(spec, averages)
        clamped = jnp.clip(g, -spec.gradient_clip, spec.gradient_clip)
        return Entries(m, v, jnp.where(self.active, clamped, 0), p)

    def tile(self, i: Any, rows: int) -> Parts:
        """Return where tile i is in the large arrays."""
        return {-3: self.here, -2: (i, rows)}


class Sums(NamedTuple):
    """What the first loop adds up over a matrix."""

    by_column: jax.Array
    """Squared gradients, floor included, along m: (..., 1, n)."""
    plain: jax.Array
    """Squares of the plain channels: (channels, ..., 1, 1)."""
    magnitude: jax.Array
    """Magnitudes of the momenta: (..., 1, 1)."""


def direction(
    spec: Spec, theta: Weights, batch: Batch, tile: int | None
) -> tuple[jax.Array, Batch, jax.Array]:
    """Return the MLP's output (..., m, n), the batch with new statistics, and which matrices move.

    Those do that are active and ever had a gradient, (..., 1, 1) bool. Statistics of matrices that
    are not active stay as they are. `tile` is a number of elements; None: no tiles, as sharded
    matrices need it.
    """
    count, m, n = batch.shape
    rows = m if tile is None else largest_divisor(m, tile // (count * n))

    # 1. Momenta and V advance in place, and are added up with the new gradient.
    batch, by_row, sums = _accumulate(spec, batch, rows)
    means = _in_memory_order(batch, [by_row / n, sums.by_column / m])[-len(batch.factored) :]
    advanced = []
    for old, mean in zip(batch.factored, means, strict=True):
        advanced.append(_decayed(spec.factored_decays, old, mean))

    # 2. Channels that need the factored moments of the whole matrix are added up.
    factors = _in_memory_order(batch, rule.preconditioners(jnp, spec, advanced))

    def multiplied(i: Any) -> jax.Array:
        here = [_rows(side, i, rows) for side in factors]
        entries = batch.entries(spec, i, rows)
        return _squares(entries.factored_channels(spec, here), entries.g)

    squares = sums.plain / (m * n), sum_over_tiles(m // rows, multiplied) / (m * n)

    # 3. Normalization by the RMS over the matrix is folded into the first layer of the MLP.
    layer, hidden = _fold(spec, theta, advanced, *squares)
    hidden = _in_memory_order(batch, hidden)

    # 4. The MLP, into the one temporary of the size of the matrices.
    def one_tile(i: Any, d: jax.Array) -> jax.Array:
        entries = batch.entries(spec, i, rows)
        plain = _separate(entries.plain_channels(spec))
        here = [_rows(side, i, rows) for side in factors]
        others = _separate(entries.factored_channels(spec, here))
        sides = [_rows(side, i, rows) for side in hidden]
        channels = rule.in_order(spec, plain, others)
        return put(d, rule.entrywise_direction(jnp, theta, layer, sides, channels), {-2: (i, rows)})

    d = over_tiles(m // rows, one_tile, jnp.zeros(batch.shape, batch.factored[0].dtype))
    moves = batch.active & (sums.magnitude > 0)
    return d, batch._replace(factored=_kept(batch, advanced)), moves


def _kept(batch: Batch, advanced: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """Return the factored moments: advanced ones, or old ones of matrices that are not active."""
    pairs = zip(advanced, batch.factored, strict=True)
    return tuple(jnp.where(batch.active, new, old) for new, old in pairs)


def _accumulate(spec: Spec, batch: Batch, rows: int) -> tuple[Batch, jax.Array, Sums]:
    """Return the batch with new averages, and what the step needs of them.

    The sums between them, of squared gradients along n, (..., m, 1), belong to rows of their own.
    """
    _, m, n = batch.shape
    random = noise(batch.step, m, n, batch.transposed)

    def tile(i: Any, batch: Batch) -> tuple[jax.Array, jax.Array, Sums]:
        old = batch.entries(spec, i, rows)
        means = _decayed(spec.momentum_decays, old.m, old.g)
        v = None if old.v is None else rule.second_moment(spec, old.v, old.g)
        q = old.g * old.g + spec.factored_floor
        sums = Sums(
            jnp.sum(q, -2, keepdims=True),
            _squares(old._replace(m=means, v=v).plain_channels(spec), old.g),
            jnp.sum(jnp.abs(means), (0, -2, -1), keepdims=True)[0],
        )
        new = means if v is None else jnp.concatenate([means, v[None]])
        if batch.averages.dtype == jnp.bfloat16:
            new = rounded(new, random.of_rows(i, rows))
        before = take(batch.averages, batch.tile(i, rows))
        new = jnp.where(batch.active, new.astype(before.dtype), before)
        return new, jnp.sum(q, -1, keepdims=True), sums

    def one_tile(i: Any, carry: Any) -> Any:
        averages, by_row, total = carry
        new, here, sums = tile(i, batch._replace(averages=averages))
        return (
            put(averages, new, batch.tile(i, rows)),
            put(by_row, here, {-2: (i, rows)}),
            jax.tree.map(jnp.add, total, sums),
        )

    *_, here, sums = jax.eval_shape(lambda: tile(0, batch))
    by_row = jnp.zeros((*here.shape[:-2], m, 1), here.dtype)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums)
    start = batch.averages, by_row, zeros
    averages, by_row, sums = over_tiles(m // rows, one_tile, start)
    return batch._replace(averages=averages), by_row, sums


def _fold(
    spec: Spec,
    theta: Weights,
    factored: Sequence[jax.Array],
    plain: jax.Array,
    multiplied: jax.Array,
) -> tuple[jax.Array, list[jax.Array]]:
    """Return the first layer of the channels of elements, and its products with those of sides.

    `plain` and `multiplied` are mean squares of both kinds of channels of elements.
    """
    count = len(plain) + len(multiplied)
    order = rule.in_order(spec, range(len(plain)), range(len(plain), count))
    squares = [[_columns(jnp.concatenate([plain, multiplied])[np.array(order)])]]
    of_sides = []
    for features in rule.side_channels(jnp, spec, [side[None] for side in factored]):
        channels = jnp.concatenate(features) if features else None
        of_sides.append(channels)
        if channels is None:
            squares.append([])
        else:
            squares.append([_columns(jnp.mean(channels**2, (-2, -1), keepdims=True))])
    layer = rule.fold(jnp, spec, theta.w0, Channels(*squares), vector=len(factored) == 1)
    products = []
    for weights, channels in zip(layer[1:], of_sides, strict=True):
        if channels is not None:
            products.append(rule.first_layer(jnp, weights, [*channels]))
    return layer.entries, products  # type: ignore[return-value]


def _decayed(decays: Sequence[float], means: jax.Array, new: jax.Array) -> jax.Array:
    """Return exponential moving averages (len(decays), ...) after one more value (...)."""
    b = np.array(decays).reshape(-1, *[1] * new.ndim)
    return jnp.asarray(b, means.dtype) * means + jnp.asarray(1 - b, means.dtype) * new


def _squares(channels: Sequence[jax.Array], like: jax.Array) -> jax.Array:
    """Return the sums of squares (channels, ..., 1, 1) over a tile like (..., m, n)."""
    if not channels:
        return jnp.zeros((0, *like.shape[:-2], 1, 1), like.dtype)
    sums = []
    for x in channels:
        total = jnp.sum(x * x, (-2, -1), keepdims=True)
        sums.append(total if x.ndim > 3 else total[None])
    return jnp.concatenate(sums)


def _separate(channels: Sequence[jax.Array]) -> list[jax.Array]:
    """Return each channel as an array of its own, (..., m, n)."""
    result = []
    for x in channels:
        result.extend([*x] if x.ndim > 3 else [x])
    return result


def _columns(squares: jax.Array) -> jax.Array:
    """Return the numbers (channels, ..., 1, 1) as `fold` reads them, (..., channels, 1)."""
    return jnp.moveaxis(squares[..., 0], 0, -2)


def _in_memory_order(batch: Batch, sides: Sequence[jax.Array]) -> list[jax.Array]:
    """Exchange what belongs to sides a and b with what belongs to rows and columns, or back."""
    return [side.mT for side in reversed(sides)] if batch.transposed else list(sides)


def _rows(side: jax.Array, i: Any, rows: int) -> jax.Array:
    """Return the part of an array per side that belongs to tile i."""
    return side if side.shape[-2] == 1 else take(side, {-2: (i, rows)})
