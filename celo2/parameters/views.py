"""Which two axes of a parameter are the matrix, and the view of it that the rule reads.

The rule was learned on matrices y = x @ W of shape (in, out). It reads every parameter as a batch of matrices
(..., a, b) with the short axis first, and fan-in first on a tie. In this orientation the longer axis (the LAST on a tie)
is always b, and Newton-Schulz never has to transpose: both tie rules of the reference live here and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from celo2.errors import InputError


@dataclasses.dataclass(frozen=True)
class MatrixAxes:
    """Which axes of a parameter are the matrix; all others are batch: each matrix gets the rule by itself.

    `split_sizes` cuts the axis `split_axis` into consecutive blocks that are matrices of their own: the three parts of a
    fused QKV, the heads of an attention projection, the groups of a grouped convolution.
    """

    fan_in: int = -2
    fan_out: int = -1
    split_axis: int = -1
    split_sizes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Piece:
    """A batch of equal matrices inside a parameter: consecutive blocks of one axis, then two axes moved last.

    Axes are counted from the end, so that an array may carry axes in front of the parameter's own (three momenta).
    """

    vector = False

    split: int
    start: int
    count: int
    """Number of blocks; 1 leaves the rank as it is, more make the blocks a batch axis."""
    size: int
    short: int
    long: int

    def view(self, xp: Any, x: Any) -> Any:
        """The matrices (..., a, b) in an array of the parameter's layout; no copy where the layout allows."""
        x = x[(..., slice(self.start, self.start + self.count * self.size), *(slice(None),) * (-self.split - 1))]
        if self.count > 1:
            cut = len(x.shape) + self.split
            x = x.reshape(*x.shape[:cut], self.count, self.size, *x.shape[cut + 1 :])
        return xp.moveaxis(x, (self.short, self.long), (-2, -1))

    def inverse(self, xp: Any, matrices: Any) -> Any:
        """The part of the parameter, in its own layout, that the matrices (..., a, b) came from."""
        x = xp.moveaxis(matrices, (-2, -1), (self.short, self.long))
        if self.count > 1:
            cut = len(x.shape) + self.split - 1
            x = x.reshape(*x.shape[:cut], self.count * self.size, *x.shape[cut + 2 :])
        return x

    def axes(self, rank: int) -> list[int | None]:
        """Which axis of a parameter of that rank, counted from the end, each axis of the view is; None for that of blocks."""
        order: list[int | None] = list(range(-rank, 0))
        if self.count > 1:
            order.insert(rank + self.split, None)
        matrix = [order[self.short], order[self.long]]
        return [axis for axis in order if axis not in matrix] + matrix

    def blocks(self) -> Iterator[tuple[Piece, int | None]]:
        """Each block as a piece of its own, with its place among them; None for one that is alone."""
        if self.count == 1:
            yield self, None
            return
        # Left of the split axis, axes had moved by one to let the axis of blocks in.
        short, long = (axis + (axis < self.split - 1) for axis in (self.short, self.long))
        for i in range(self.count):
            yield Piece(self.split, self.start + i * self.size, 1, self.size, short, long), i

    def cut(self, span: tuple[int, int], origin: int) -> Piece:
        """A part of one block, counted from its start, in an array that starts at `origin` of the whole one."""
        return dataclasses.replace(self, start=max(0, self.start + span[0] - origin), size=span[1] - span[0])


@dataclasses.dataclass(frozen=True)
class Vector:
    """A parameter of one axis or none, seen as the one row (1, n)."""

    vector = True

    rank: int

    def view(self, xp: Any, x: Any) -> Any:
        """The row (..., 1, n) in an array of the parameter's layout."""
        return x[..., None, :] if self.rank else x[..., None, None]

    def inverse(self, xp: Any, matrices: Any) -> Any:
        """The parameter, in its own layout, that the row (..., 1, n) came from."""
        return matrices[..., 0, :] if self.rank else matrices[..., 0, 0]


def pieces(shape: Sequence[int], axes: MatrixAxes) -> list[Piece] | list[Vector]:
    """The batches of matrices in a parameter: one, unless it is split into unequal blocks; or its one vector.

    Raises:
        InputError: the axes do not exist or coincide, or the split sizes do not add up.
    """
    if len(shape) < 2:
        return [Vector(len(shape))]
    fan_in, fan_out, split = (_from_the_end(axis, shape) for axis in (axes.fan_in, axes.fan_out, axes.split_axis))
    if fan_in == fan_out:
        raise InputError(f"fan_in and fan_out are one axis, {axes.fan_in}, of shape {tuple(shape)}; state two different axes")
    if axes.split_sizes and min(axes.split_sizes) < 1:
        raise InputError(f"split_sizes are {axes.split_sizes}; give each block a length of at least 1")
    sizes = axes.split_sizes or (shape[split],)
    if sum(sizes) != shape[split]:
        raise InputError(
            f"split_sizes {sizes} do not add up to {shape[split]}, the length of axis {axes.split_axis} of {tuple(shape)}"
        )
    equal = len(set(sizes)) == 1
    runs = [(len(sizes), sizes[0])] if equal else [(1, size) for size in sizes]
    result, start = [], 0
    for count, size in runs:
        lengths = [size if axis == split else shape[axis] for axis in (fan_in, fan_out)]
        # Left of the split axis everything moves by one when the blocks become an axis.
        matrix = [axis - (count > 1 and axis < split) for axis in (fan_in, fan_out)]
        short, long = matrix if lengths[0] <= lengths[1] else matrix[::-1]
        result.append(Piece(split, start, count, size, short, long))
        start += count * size
    return result


def _from_the_end(axis: int, shape: Sequence[int]) -> int:
    if not -len(shape) <= axis < len(shape):
        raise InputError(f"axis {axis} does not exist in shape {tuple(shape)}; state an axis below {len(shape)}")
    return axis if axis < 0 else axis - len(shape)
