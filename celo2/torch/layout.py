"""Where the matrices of a parameter lie: in the parameter, in its state, and on this rank.

A `Layout` depends on shape, strides, axes and sharding alone, and is computed once per kind of
parameter. It makes views: no element is read, copied or sent.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from celo2.parameters.views import MatrixAxes, MatrixView, matrix_views
from celo2.rule import Accumulators


class Sharding(NamedTuple):
    """How a parameter is divided along one axis: in equal blocks, the last ones short or empty."""

    axis: int
    ranks: int
    rank: int

    def span(self, length: int, rank: int) -> tuple[int, int]:
        """Return start and end on a rank of an axis of that length."""
        each = -(-length // self.ranks)
        return min(rank * each, length), min((rank + 1) * each, length)


class Window(NamedTuple):
    """The axes of a batch of matrices before they are merged, and the part of them on this rank.

    A tensor of the batch is (..., *batch, a, b), where a is the product of `rows` and b of
    `columns`; "full" means that it is known for all ranks, "local" that it is cut to this one.
    """

    batch: tuple[int, ...]
    rows: tuple[int, ...]
    """Lengths of the axes merged into side a, in memory order."""
    columns: tuple[int, ...]
    axis: int | None = None
    """The sharded one of these axes, counted from the end; None: everything is local."""
    spans: tuple[tuple[int, int], ...] = ()
    """Start and end on that axis, per rank."""
    rank: int = 0

    @property
    def a(self) -> int:
        """Length of the short side of the full matrices."""
        return math.prod(self.rows)

    @property
    def b(self) -> int:
        """Length of the long side."""
        return math.prod(self.columns)

    @property
    def divides_matrices(self) -> bool:
        """Whether each matrix is distributed over the ranks, and not each whole on one."""
        return self.axis is not None and -self.axis <= len(self.rows) + len(self.columns)

    def part(self, matrix: Tensor, rank: int) -> Tensor:
        """Return what of one full matrix (a, b) lies on a rank, its axes not merged, as a view."""
        assert self.axis is not None
        start, end = self.spans[rank]
        return matrix.view(*self.rows, *self.columns).narrow(self.axis, start, end - start)

    def place(self, x: Tensor, rows: bool = False, columns: bool = False) -> Tensor:
        """Return zeros for the full matrices with the local x in its place.

        x is (..., *batch, a, 1) if it has `rows`, (..., *batch, 1, b) if it has `columns`, else
        (..., *batch, 1, 1).
        """
        if self.axis is None:
            return x
        # A copy of the size of the full sides, a + b numbers per matrix at most: zeros for what
        # other ranks have, so that adding up over the ranks gives the full sums.
        front = x.shape[: x.ndim - 2 - len(self.batch)]
        full = x.new_zeros(*front, *self.batch, self.a if rows else 1, self.b if columns else 1)
        here = self._cut(full, rows, columns)
        here.copy_(x.reshape(here.shape))
        return full

    def take(self, x: Tensor, rows: bool = False, columns: bool = False) -> Tensor:
        """Return the local part of a full x, of one of the shapes that `place` returns."""
        if self.axis is None or not x.ndim:
            return x
        # A view of the full array; merging axes that were cut inside copies one side at most.
        here = self._cut(x, rows, columns)
        if rows and here.ndim > x.ndim:
            return here.flatten(-1 - len(self.rows), -2)
        return here.flatten(-len(self.columns)) if columns and here.ndim > x.ndim else here

    def _cut(self, x: Tensor, rows: bool, columns: bool) -> Tensor:
        """Return the local part of x as a view whose sharded side, if x has it, is not merged."""
        assert self.axis is not None
        start, end = self.spans[self.rank]
        # Three places where the sharded axis may be: in the columns, in the rows, in the batch. An
        # array that is constant along the cut side is the same on all ranks, and stays as it is.
        from_the_end = -self.axis
        if from_the_end <= len(self.columns):
            if not columns:
                return x
            return x.unflatten(-1, self.columns).narrow(self.axis, start, end - start)
        if self.divides_matrices:
            if not rows:
                return x
            axis = self.axis + len(self.columns) - 1
            return x.unflatten(-2, self.rows).narrow(axis, start, end - start)
        axis = self.axis + len(self.rows) + len(self.columns) - 2
        return x.narrow(axis, start, end - start)


class Moment(NamedTuple):
    """Where the factored moments of one side of a layout lie in an array of the state (k, n)."""

    start: int
    end: int
    shape: tuple[int, ...]
    """(*batch, *lengths of the axes of the side), in the order of the state."""
    order: tuple[int, ...]
    """Permutation of these axes that brings those of the side to memory order."""
    block: tuple[int, int] | None
    """(axis of blocks in `shape`, index of the block), if the layout is one block of several."""

    def of(self, x: Tensor) -> Tensor:
        """Return a view (k, *batch, *axes of the side)."""
        # Slices, splits and permutations are views, so that kernels advance the state in place.
        x = x[:, self.start : self.end].unflatten(1, self.shape)
        x = x.permute(0, *(1 + axis for axis in self.order))
        return x if self.block is None else x.select(1 + self.block[0], self.block[1])


class Layout(NamedTuple):
    """Where a batch of equal matrices lies in a parameter and in the arrays of its state."""

    view: MatrixView
    """Of what is local; merged axes are in memory order, so that merging them rarely copies."""
    window: Window
    moments: tuple[Moment, ...]
    """Of R and C; of D for a vector."""

    def of(self, x: Tensor) -> Tensor:
        """Return a view (..., *batch, *rows, *columns) of an array in the parameter's layout."""
        x = self.view.unmerged(torch, x)
        if not self.view.is_vector:
            return x
        # A vector is a matrix of one row.
        return x[..., None, :] if self.view.long else x[..., None, None]

    def accumulators(self, state: dict[str, Tensor]) -> Accumulators:
        """Return views of a parameter's state, the factored ones (k, *batch, *axes of the side)."""
        arrays = state["row_moments"], state["column_moments"]
        factored = tuple(moment.of(x) for moment, x in zip(self.moments, arrays, strict=False))
        return Accumulators(self.of(state["averages"]), factored)


@functools.lru_cache(maxsize=1 << 14)
def layouts(
    shape: tuple[int, ...], strides: tuple[int, ...], axes: MatrixAxes, sharding: Sharding | None
) -> tuple[Layout, ...]:
    """Return where the matrices of a parameter lie.

    Args:
        shape: of the parameter on all ranks together.
        strides: its strides, the same on all ranks: they fix the order of merged axes.
        axes: which axes are the matrix.
        sharding: how it is divided; None: it is not.
    """
    # Shape and strides without memory: everything here is planned on it, once per kind.
    full = torch.empty_strided(shape, strides, device="meta")
    result: list[Layout] = []
    starts = (0, 0)
    for view in matrix_views(shape, axes):
        # A block that ends inside a shard is a batch of its own, since ranks hold different parts.
        divided = sharding is not None and view.split == sharding.axis - len(shape)
        for block, index in view.blocks() if divided else [(view, None)]:
            ordered = _in_memory_order(block, full)
            window, local = _window(ordered, full, sharding)
            moments = _moments(view, ordered, index, full, starts)
            result.append(Layout(local, window, moments))
        # The factored moments of a view follow those of the view before it, in one array per side.
        *batch, a, b = view.view(torch, full).shape
        starts = (starts[0] + math.prod(batch) * a, starts[1] + math.prod(batch) * b)
    return tuple(result)


def _in_memory_order(view: MatrixView, full: Tensor) -> MatrixView:
    """Return a view that merges axes from the largest stride to the smallest.

    The order within a side changes nothing but the order of rows or columns, to which the rule is
    equivariant; in this one, channels-last kernels merge without a copy as contiguous ones do.
    """
    strides = view.blocked(full).stride()
    sides = []
    for axes, lengths in ((view.short, view.short_lengths), (view.long, view.long_lengths)):
        pairs = sorted(zip(axes, lengths, strict=True), key=lambda pair: -strides[pair[0]])
        # A vector has no short axes.
        sides.append(tuple(zip(*pairs, strict=True)) or ((), ()))
    (short, short_lengths), (long, long_lengths) = sides
    return dataclasses.replace(
        view, short=short, short_lengths=short_lengths, long=long, long_lengths=long_lengths
    )


def _window(view: MatrixView, full: Tensor, sharding: Sharding | None) -> tuple[Window, MatrixView]:
    """Return the window of a view on this rank, and the view of what is local."""
    rows, columns = view.short_lengths or (1,), view.long_lengths or (1,)
    batch = tuple(view.unmerged(torch, full).shape)[: -len(view.short) - len(view.long)]
    if view.is_vector:
        batch = ()
    if sharding is None:
        return Window(batch, rows, columns), view
    # Find the sharded axis of the window; blocks, and the row of a vector, are made of none.
    sharded = sharding.axis - full.ndim
    made_of: list[int | None] = []
    for axes in view.axes(full.ndim):
        made_of += axes or (None,)
    axis = made_of.index(sharded) - len(made_of)
    length = full.shape[sharded]
    spans = [sharding.span(length, rank) for rank in range(sharding.ranks)]
    # Blocks of a fused axis may begin or end inside the shard; what is local of them may be empty.
    if view.split == sharded:
        origin = spans[sharding.rank][0]
        spans = [_intersection(view, span) for span in spans]
        local = view.cut(spans[sharding.rank], origin)
    else:
        local = view
    return Window(batch, rows, columns, axis, tuple(spans), sharding.rank), local


def _intersection(block: MatrixView, span: tuple[int, int]) -> tuple[int, int]:
    """Return what of a block, counted from its start, lies in a span of the split axis."""
    start, end = span[0] - block.start, span[1] - block.start
    return min(max(start, 0), block.size), min(max(end, 0), block.size)


def _moments(
    view: MatrixView, ordered: MatrixView, index: int | None, full: Tensor, starts: tuple[int, int]
) -> tuple[Moment, ...]:
    """Return where R and C of one of a view's blocks, or of all of them, lie in the state."""
    if view.is_vector:
        return (Moment(0, full.numel(), (full.numel(),), (0,), None),)
    batch = tuple(view.view(torch, full).shape[:-2])
    block = None if index is None else (view.axes(full.ndim).index(()), index)
    # Axes of the parameter itself, by which those of the view and of its block can be compared.
    own, memory = view.axes(full.ndim)[-2:], ordered.axes(full.ndim)[-2:]
    # The state keeps R and C in the order of the parameter's axes, whatever its strides are, so a
    # checkpoint is the same for every memory format; `order` brings them to memory order.
    moments = []
    for side, lengths in enumerate((view.short_lengths, view.long_lengths)):
        order = [len(batch) + own[side].index(axis) for axis in memory[side]]
        start = starts[side]
        end = start + math.prod(batch) * math.prod(lengths)
        order = (*range(len(batch)), *order)
        moments.append(Moment(start, end, (*batch, *lengths), order, block))
    return tuple(moments)
