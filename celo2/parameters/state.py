"""The accumulators of one parameter as both front ends keep them: four arrays, the large two in the parameter's own layout.

So they are sharded, checkpointed and laid out in memory as the parameter is, whatever view of it the rule reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from celo2.parameters.views import Piece, Vector
from celo2.rule import Accumulators
from celo2.rule.spec import Spec


class State(NamedTuple):
    """Accumulators of one parameter of any shape."""

    momentum: Any
    """(3, *shape)"""
    second_moment: Any
    """(shape)"""
    row_moments: Any
    """(3, rows of all matrices, one after the other); of a vector its entries."""
    column_moments: Any
    """(3, columns of all matrices, one after the other); of a vector nothing, (3, 0)."""


def lengths(
    spec: Spec, parts: Sequence[Piece | Vector], second_moment: Any, xp: Any
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of `row_moments` and `column_moments` for a parameter's parts."""
    rows, columns = zip(*(_lengths(part, part.view(xp, second_moment).shape) for part in parts), strict=True)
    k = len(spec.factored_decays)
    return (k, sum(rows)), (k, sum(columns))


def unpack(xp: Any, parts: Sequence[Piece | Vector], state: State) -> Iterator[Accumulators]:
    """The accumulators of each part as the rule reads them; in PyTorch views, so that writing to them writes the state."""
    row, column = 0, 0
    for part in parts:
        momentum, second_moment = (part.view(xp, x) for x in (state.momentum, state.second_moment))
        *batch, a, b = second_moment.shape
        rows, columns = _lengths(part, second_moment.shape)
        r = state.row_moments[:, row : row + rows]
        c = state.column_moments[:, column : column + columns]
        k = r.shape[0]
        if part.vector:
            yield Accumulators(momentum, second_moment, (r.reshape(k, 1, b),))
        else:
            yield Accumulators(momentum, second_moment, (r.reshape(k, *batch, a, 1), c.reshape(k, *batch, 1, b)))
        row, column = row + rows, column + columns


def pack(xp: Any, parts: Sequence[Piece | Vector], accumulators: Sequence[Accumulators]) -> State:
    """The inverse of `unpack`."""
    factored = [[f.reshape(f.shape[0], -1) for f in each.factored] for each in accumulators]
    rows = [f[0] for f in factored]
    columns = [f[1] if len(f) > 1 else f[0][:, :0] for f in factored]
    return State(
        join(xp, parts, [each.momentum for each in accumulators]),
        join(xp, parts, [each.second_moment for each in accumulators]),
        xp.concatenate(rows, axis=1),
        xp.concatenate(columns, axis=1),
    )


def join(xp: Any, parts: Sequence[Piece | Vector], matrices: Sequence[Any]) -> Any:
    """A parameter, in its own layout, of the matrices of its parts."""
    whole = [part.inverse(xp, x) for part, x in zip(parts, matrices, strict=True)]
    first = parts[0]
    return whole[0] if isinstance(first, Vector) or len(whole) == 1 else xp.concatenate(whole, axis=first.split)


def _lengths(part: Piece | Vector, shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns that the matrices (..., a, b) of a part have together; a vector's entries count as rows."""
    *batch, a, b = shape
    return (b, 0) if part.vector else (math.prod(batch) * a, math.prod(batch) * b)
