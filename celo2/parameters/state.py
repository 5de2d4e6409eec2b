"""The running statistics of one parameter as both front ends keep them: three arrays.

The large one has the parameter's own layout, so it is sharded, checkpointed and placed in memory as
the parameter is, whatever view of it the rule reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from celo2.parameters.views import MatrixView
from celo2.rule import Accumulators, Spec


class ParameterState(NamedTuple):
    """Running statistics of one parameter of any shape."""

    averages: Any
    """(averages, *shape): of the gradient, one per decay, and of its square where it is read."""
    row_moments: Any
    """(k, rows of all matrices, one after the other); for a vector, its entries."""
    column_moments: Any
    """(k, columns of all matrices, one after the other); for a vector, none: (k, 0)."""


def moment_shapes(
    spec: Spec, views: Sequence[MatrixView], parameter: Any, xp: Any
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the shapes of `row_moments` and `column_moments` for a parameter's views."""
    rows = columns = 0
    for view in views:
        in_rows, in_columns = _lengths(view, view.view(xp, parameter).shape)
        rows, columns = rows + in_rows, columns + in_columns
    k = len(spec.factored_decays)
    return (k, rows), (k, columns)


def unpack(xp: Any, views: Sequence[MatrixView], state: ParameterState) -> Iterator[Accumulators]:
    """Yield the accumulators of each view as the rule reads them.

    In PyTorch they are views of the state where the layout allows, so writing to them updates it.
    """
    row = column = 0
    k = state.row_moments.shape[0]
    for view in views:
        averages = view.view(xp, state.averages)
        _, *batch, a, b = averages.shape
        rows, columns = _lengths(view, averages.shape[1:])
        r = state.row_moments[:, row : row + rows]
        c = state.column_moments[:, column : column + columns]
        factored = (
            (r.reshape(k, 1, b),)
            if view.is_vector
            else (r.reshape(k, *batch, a, 1), c.reshape(k, *batch, 1, b))
        )
        yield Accumulators(averages, factored)
        row, column = row + rows, column + columns


def pack(
    xp: Any, views: Sequence[MatrixView], accumulators: Sequence[Accumulators]
) -> ParameterState:
    """Return the state of a parameter from the accumulators of its views: undo `unpack`."""
    averages, factored = zip(*accumulators, strict=True)
    rows, columns = [], []
    for first, *rest in factored:
        k = first.shape[0]
        rows.append(first.reshape(k, -1))
        columns.append(rest[0].reshape(k, -1) if rest else first.reshape(k, -1)[:, :0])
    return ParameterState(
        join(xp, views, averages),
        xp.concatenate(rows, axis=1),
        xp.concatenate(columns, axis=1),
    )


def join(xp: Any, views: Sequence[MatrixView], matrices: Sequence[Any]) -> Any:
    """Return a parameter, in its own layout, from the matrices of its views."""
    blocks = [view.inverse(xp, x) for view, x in zip(views, matrices, strict=True)]
    return blocks[0] if len(blocks) == 1 else xp.concatenate(blocks, axis=views[0].split)


def _lengths(view: MatrixView, shape: Sequence[int]) -> tuple[int, int]:
    """Return the rows and columns of all matrices (..., a, b) together; vectors have rows only."""
    *batch, a, b = shape
    return (b, 0) if view.is_vector else (math.prod(batch) * a, math.prod(batch) * b)
