"""The features that the MLP reads, as data: one row per feature, in the paper's order.

A feature gives one channel, or one per decay. It is computed from the NEW running statistics,
either for every entry of the matrix or along one side of it; the latter are never expanded.
Adding a feature is adding a row to `FEATURES`; everything else counts and sorts rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from celo2.rule.spec import Spec

Array = Any
ENTRY, ROW, COLUMN = "entries", "rows", "columns"


class Inputs(NamedTuple):
    """What the features of entries are computed from, each (..., a, b) or broadcasting to it."""

    g: Array
    """Gradient, clamped."""
    p: Array
    """Parameter."""
    m: Sequence[Array]
    """Momenta M_i."""
    v: Array | None
    """Second moment V; None where no feature reads it."""
    s: Array | None
    """1/sqrt(V)"""
    factors: Sequence[Array]
    """Arrays (k, ...) whose product is F_i, the factored 1/sqrt of the second moment."""


@dataclasses.dataclass(frozen=True)
class Feature:
    """One row of the table."""

    name: str
    compute: Callable[[Any, Spec, Any], list[Array]]
    """(xp, spec, `Inputs`) -> channels; for a side, (xp, spec, R_i or C_i) -> channels."""
    kind: str = ENTRY
    """Whether it differs per entry, or per row (..., a, 1) or column (..., 1, b) only."""
    odd: bool = False
    """Whether it changes sign with gradient, momentum and weights."""
    needs_factors: bool = False
    """Whether it needs F_i, and so a look at the whole matrix first."""
    of_vectors: bool = True
    """Whether vectors have it."""
    of_second_moment: bool = False
    """Whether it reads V."""
    decays: str | None = None
    """The field of the spec with the decays that it has a channel for; None: it has one channel."""

    def count(self, spec: Spec) -> int:
        """Return the number of channels."""
        return 1 if self.decays is None else len(getattr(spec, self.decays))

    def channel_names(self, spec: Spec) -> list[str]:
        """Return a name per channel, with the decay where there is one."""
        if self.decays is None:
            return [self.name]
        return [f"{self.name} {decay}" for decay in getattr(spec, self.decays)]


def _times_factors(x: Sequence[Array], factors: Sequence[Array]) -> list[Array]:
    """Return x_i F_i.

    F_i is never multiplied out: its two sides broadcast, a row and a column at a time.
    """
    result = list(x)
    for each in factors:
        result = [y * f for y, f in zip(result, each, strict=True)]
    return result


def _clipped(xp: Any, spec: Spec, x: Inputs) -> list[Array]:
    return [xp.clip(x.g, -spec.feature_clip, spec.feature_clip)]


def _root(xp: Any, spec: Spec, side: Array) -> list[Array]:
    # The leading axis, one row per decay, becomes a list of channels.
    return [*(1 / xp.sqrt(side + spec.second_moment_epsilon))]


MOMENTUM, FACTORED = "momentum_decays", "factored_decays"

# Features of entries come first where they need one reading of the matrix; those with
# `needs_factors` are computed in a second one, when the means along both sides are known. Rows and
# columns are (..., a, 1) and (..., 1, b): they cost a + b numbers, not a * b, and broadcast only in
# the sum of the first layer.
FEATURES = (
    Feature("G", lambda xp, spec, x: [x.g], odd=True),
    Feature("clip(G)", _clipped, odd=True),
    Feature("W", lambda xp, spec, x: [x.p], odd=True),
    Feature("M", lambda xp, spec, x: [*x.m], odd=True, decays=MOMENTUM),
    Feature("V", lambda xp, spec, x: [x.v], of_second_moment=True),
    Feature(
        "M s",
        lambda xp, spec, x: [m * x.s for m in x.m],
        odd=True,
        of_second_moment=True,
        decays=MOMENTUM,
    ),
    Feature("s", lambda xp, spec, x: [x.s], of_second_moment=True),
    Feature(
        "G F",
        lambda xp, spec, x: _times_factors([x.g for _ in x.m], x.factors),
        odd=True,
        needs_factors=True,
        decays=FACTORED,
    ),
    Feature("G s", lambda xp, spec, x: [x.g * x.s], odd=True, of_second_moment=True),
    Feature("R", lambda xp, spec, r: [*r], kind=ROW, of_vectors=False, decays=FACTORED),
    Feature("C", lambda xp, spec, c: [*c], kind=COLUMN, of_vectors=False, decays=FACTORED),
    Feature("1/sqrt(R)", _root, kind=ROW, of_vectors=False, decays=FACTORED),
    Feature("1/sqrt(C)", _root, kind=COLUMN, of_vectors=False, decays=FACTORED),
    Feature(
        "M F",
        lambda xp, spec, x: _times_factors(x.m, x.factors),
        odd=True,
        needs_factors=True,
        of_vectors=False,
        decays=MOMENTUM,
    ),
)
"""The paper's table, #0 to #13; see `celo2.rule.spec.Spec.features` for the rows a rule reads."""

BY_NAME = {feature.name: feature for feature in FEATURES}


class Channels(NamedTuple):
    """What the MLP reads, by kind, each a list of channels in the order of the spec."""

    entries: list[Array]  # (..., a, b)
    rows: list[Array]  # (..., a, 1)
    columns: list[Array]  # (..., 1, b)


def table(spec: Spec) -> list[Feature]:
    """Return the rows that the spec reads, in its order."""
    return [BY_NAME[name] for name in spec.features]


def has_second_moment(spec: Spec) -> bool:
    """Return whether a feature reads V; else it is not kept."""
    return any(feature.of_second_moment for feature in table(spec))


def average_count(spec: Spec) -> int:
    """Return the number of averages that are kept per entry: the momenta, then V if it is read."""
    return len(spec.momentum_decays) + has_second_moment(spec)


def split_averages(spec: Spec, averages: Any) -> tuple[Any, Any]:
    """Return the momenta and V, or None, of a sequence or array of averages."""
    momenta = len(spec.momentum_decays)
    return averages[:momenta], averages[momenta] if has_second_moment(spec) else None


def channel_count(spec: Spec) -> int:
    """Return the number of channels of a matrix: the rows of the first layer."""
    return sum(feature.count(spec) for feature in table(spec))


def channel_names(spec: Spec) -> list[str]:
    """Return the name of each channel of a matrix, in the order of the first layer."""
    names: list[str] = []
    for feature in table(spec):
        names.extend(feature.channel_names(spec))
    return names


def channel_signs(spec: Spec) -> list[float]:
    """Return, per channel, -1 where it changes sign with gradient, momentum and weights, else 1."""
    signs: list[float] = []
    for feature in table(spec):
        signs.extend([-1.0 if feature.odd else 1.0] * feature.count(spec))
    return signs


def first_channel(spec: Spec, name: str) -> int:
    """Return the row of the first layer that reads the first channel of a feature."""
    position = 0
    for feature in table(spec):
        if feature.name == name:
            return position
        position = position + feature.count(spec)
    raise KeyError(name)


def plain_channels(
    xp: Any, spec: Spec, m: Sequence[Array], v: Array | None, g: Array, p: Array
) -> list[Array]:
    """Return the channels of entries that need no factored moments; any tile will do."""
    # 1/sqrt(V) is computed once, for all channels that it multiplies.
    s = None if v is None else 1 / xp.sqrt(v + spec.second_moment_epsilon)
    x = Inputs(g, p, m, v, s, ())
    channels: list[Array] = []
    for feature in _of_entries(spec, needs_factors=False):
        channels.extend(feature.compute(xp, spec, x))
    return channels


def factored_channels(
    xp: Any, spec: Spec, m: Sequence[Array], factors: Sequence[Array], g: Array
) -> list[Array]:
    """Return the channels of entries that are multiplied by F_i, of a matrix or of a tile of one.

    `factors` are the `preconditioners` of the matrix; a vector has one, and fewer channels.
    """
    x = Inputs(g, None, m, None, None, factors)
    channels: list[Array] = []
    for feature in _of_entries(spec, needs_factors=True, vector=len(factors) == 1):
        channels.extend(feature.compute(xp, spec, x))
    return channels


def in_order(spec: Spec, plain: Sequence[Any], factored: Sequence[Any]) -> list[Any]:
    """Return what belongs to plain and factored channels of entries in the order of the spec."""
    # The two kinds were computed in different readings of the matrix, while the first layer has
    # its rows in the order of the spec.
    plain_rest, factored_rest = list(plain), list(factored)
    result: list[Any] = []
    for feature in table(spec):
        rest = factored_rest if feature.needs_factors else plain_rest
        if feature.kind == ENTRY and rest:
            count = feature.count(spec)
            result.extend(rest[:count])
            del rest[:count]
    return result


def side_channels(
    xp: Any, spec: Spec, factored: Sequence[Array]
) -> tuple[list[Array], list[Array]]:
    """Return the channels along rows and along columns from R and C; a vector has none."""
    if len(factored) == 1:
        return [], []
    rows: list[Array] = []
    columns: list[Array] = []
    for feature in table(spec):
        if feature.kind == ROW:
            rows.extend(feature.compute(xp, spec, factored[0]))
        elif feature.kind == COLUMN:
            columns.extend(feature.compute(xp, spec, factored[1]))
    return rows, columns


def preconditioners(xp: Any, spec: Spec, factored: Sequence[Array]) -> tuple[Array, ...]:
    """Return arrays whose product is F_i, as in Adafactor (Shazeer and Stern, 2018)."""
    floor = spec.factored_epsilon
    if len(factored) == 1:
        return (1 / xp.sqrt(factored[0] + floor),)
    # Means of replicated moments: every rank computes the same, without a message.
    rows, columns = factored
    rows = rows / (xp.mean(rows, axis=-2, keepdims=True) + floor)
    return 1 / xp.sqrt(xp.clip(rows, floor, None)), 1 / xp.sqrt(xp.clip(columns, floor, None))


def kind_rows(xp: Any, spec: Spec, w0: Array, kind: str, vector: bool) -> Array:
    """Return the rows of the first layer that read one kind of channel, in the spec's order."""
    # Slices of the first layer, a few hundred numbers: the one copy is the concatenation.
    pieces, position = [], 0
    for feature in table(spec):
        end = position + feature.count(spec)
        if feature.kind == kind and (feature.of_vectors or not vector):
            pieces.append(w0[position:end])
        position = end
    return xp.concatenate(pieces)


def _of_entries(spec: Spec, needs_factors: bool, vector: bool = False) -> Iterator[Feature]:
    for feature in table(spec):
        wanted = feature.kind == ENTRY and feature.needs_factors == needs_factors
        if wanted and (feature.of_vectors or not vector):
            yield feature
