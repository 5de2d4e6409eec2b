"""Which axes of a parameter form its matrix, and the view of it that the rule reads.

The rule was learned on matrices y = x @ W of shape (in, out). It reads every parameter as a batch
of matrices (..., a, b) with the shorter side first, and fan-in first on a tie. In this orientation
the longer side (the LAST on a tie) is always b, and Newton-Schulz never has to transpose: both tie
rules of the published rule live here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from celo2.errors import InputError

Axes = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class MatrixAxes:
    """The axes of a parameter that form its matrix.

    All other axes are batch axes: the rule is applied to each matrix separately. Several axes on
    one side are merged in the order given, so a convolution kernel (out, in, height, width) is one
    matrix with `fan_in=(1, 2, 3), fan_out=0`, and one matrix per tap with `fan_in=1, fan_out=0`.

    Attributes:
        fan_in: axis or axes that are summed over by the layer; negative axes count from the end.
        fan_out: axis or axes of the layer's output.
        split_axis: axis that `split_sizes` divides.
        split_sizes: lengths of consecutive blocks of `split_axis` that are matrices of their own:
            the three parts of a fused QKV, the heads of an attention projection, the groups of a
            grouped convolution. Empty: no split.
    """

    fan_in: int | Axes = -2
    fan_out: int | Axes = -1
    split_axis: int = -1
    split_sizes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class MatrixView:
    """A batch of equal matrices inside a parameter.

    Consecutive blocks of one axis are selected, then the axes of the matrix are moved to the end
    and merged. Axes are counted from the end, so an array may carry axes in front of the
    parameter's own (the momenta do). A parameter of fewer than two axes has no short axes: its
    matrix is the row (1, n).
    """

    short: Axes
    """Axes merged into side a, after the blocks were made an axis."""
    long: Axes
    """Axes merged into side b."""
    short_lengths: tuple[int, ...]
    long_lengths: tuple[int, ...]
    split: int | None = None
    """Axis of the blocks; None: the parameter is not split."""
    start: int = 0
    """First index of the first block."""
    count: int = 1
    """Number of blocks; more than one become a batch axis in front of the split axis."""
    size: int = 0
    """Length of a block."""

    @property
    def is_vector(self) -> bool:
        """Whether the parameter has fewer than two axes."""
        return not self.short

    def view(self, xp: Any, x: Any) -> Any:
        """Return the matrices (..., a, b) of an array in the parameter's layout.

        No copy is made where axes need not be merged, or lie in memory so that they can be.
        """
        x = self.unmerged(xp, x)
        if len(self.short) == len(self.long) == 1:
            return x
        batch = len(x.shape) - len(self.short) - len(self.long)
        middle = batch + len(self.short)
        sides = math.prod(x.shape[batch:middle]), math.prod(x.shape[middle:])
        return x.reshape((*x.shape[:batch], *sides))

    def unmerged(self, xp: Any, x: Any) -> Any:
        """Return the matrices before their axes are merged, (..., *short, *long): never a copy."""
        axes = (*self.short, *self.long)
        return xp.moveaxis(self.blocked(x), axes, tuple(range(-len(axes), 0)))

    def inverse(self, xp: Any, matrices: Any) -> Any:
        """Return the part of the parameter, in its own layout, that `matrices` (..., a, b) show."""
        axes = (*self.short, *self.long)
        x = matrices.reshape((*matrices.shape[:-2], *self.short_lengths, *self.long_lengths))
        x = xp.moveaxis(x, tuple(range(-len(axes), 0)), axes)
        if self.count > 1:
            assert self.split is not None
            cut = len(x.shape) + self.split - 1
            x = x.reshape(*x.shape[:cut], self.count * self.size, *x.shape[cut + 2 :])
        return x

    def axes(self, rank: int) -> list[Axes]:
        """Return, for each axis of the view, the axes of a parameter of that rank it is made of.

        Axes are counted from the end; the axis of blocks is made of none.
        """
        order: list[Axes] = [(axis,) for axis in range(-rank, 0)]
        if self.count > 1:
            assert self.split is not None
            order.insert(rank + self.split, ())
        short, long = _merged(order, self.short), _merged(order, self.long)
        used = {*short, *long}
        return [axes for axes in order if not used.intersection(axes)] + [short, long]

    def blocks(self) -> Iterator[tuple[MatrixView, int | None]]:
        """Yield each block as a view of its own with its index; None for one that is alone."""
        if self.count == 1:
            yield self, None
            return
        assert self.split is not None
        # The axis of blocks was inserted left of the split axis; without it, axes further left
        # are one closer to the end.
        short, long = _moved(self.short, self.split, 1), _moved(self.long, self.split, 1)
        alone = dataclasses.replace(self, short=short, long=long, count=1)
        for i in range(self.count):
            yield dataclasses.replace(alone, start=self.start + i * self.size), i

    def cut(self, span: tuple[int, int], origin: int) -> MatrixView:
        """Return a part of one block, counted from its start, in an array that starts at `origin`.

        Lengths of the sides stay those of the whole block: the result is for `view` only.
        """
        start = max(0, self.start + span[0] - origin)
        return dataclasses.replace(self, start=start, size=span[1] - span[0])

    def blocked(self, x: Any) -> Any:
        """Return the blocks in an array of the parameter's layout, several as an axis."""
        if self.split is None:
            return x
        behind = (slice(None),) * (-self.split - 1)
        x = x[(..., slice(self.start, self.start + self.count * self.size), *behind)]
        if self.count > 1:
            cut = len(x.shape) + self.split
            x = x.reshape(*x.shape[:cut], self.count, self.size, *x.shape[cut + 1 :])
        return x


def matrix_views(shape: Sequence[int], axes: MatrixAxes) -> list[MatrixView]:
    """Return the batches of matrices in a parameter: one, unless it is split into unequal blocks.

    Raises:
        InputError: the axes do not exist or coincide, or the split sizes do not add up.
    """
    if len(shape) < 2:
        every = tuple(range(-len(shape), 0))
        return [MatrixView((), every, (), tuple(shape))]
    fan_in, fan_out = _from_the_end(axes.fan_in, shape), _from_the_end(axes.fan_out, shape)
    if len({*fan_in, *fan_out}) < len(fan_in) + len(fan_out) or not fan_in or not fan_out:
        raise InputError(
            f"fan_in {axes.fan_in} and fan_out {axes.fan_out} of shape {tuple(shape)} "
            "are not different axes; state each axis once"
        )
    if not axes.split_sizes:
        return [_oriented(shape, fan_in, fan_out)]
    (split,) = _from_the_end(axes.split_axis, shape)
    _check_sizes(axes, shape[split], shape)
    if len(set(axes.split_sizes)) == 1:
        runs = [(len(axes.split_sizes), axes.split_sizes[0])]
    else:
        runs = [(1, size) for size in axes.split_sizes]
    views, start = [], 0
    for count, size in runs:
        lengths = list(shape)
        lengths[split] = size
        view = _oriented(lengths, fan_in, fan_out)
        if count > 1:
            # The axis of blocks comes left of the split axis: axes further left move by one.
            short, long = _moved(view.short, split, -1), _moved(view.long, split, -1)
            view = dataclasses.replace(view, short=short, long=long)
        views.append(dataclasses.replace(view, split=split, start=start, count=count, size=size))
        start += count * size
    return views


def _oriented(shape: Sequence[int], fan_in: Axes, fan_out: Axes) -> MatrixView:
    """Return the view of an unsplit array: the shorter side first, fan-in on a tie."""
    inputs = tuple(shape[axis] for axis in fan_in)
    outputs = tuple(shape[axis] for axis in fan_out)
    if math.prod(inputs) <= math.prod(outputs):
        return MatrixView(fan_in, fan_out, inputs, outputs)
    return MatrixView(fan_out, fan_in, outputs, inputs)


def _moved(axes: Axes, split: int, by: int) -> Axes:
    """Return axes, counted from the end, of which those left of `split` are moved."""
    return tuple(axis + by if axis < split else axis for axis in axes)


def _merged(order: Sequence[Axes], side: Axes) -> Axes:
    """Return the axes of a parameter that one side of a view is merged from."""
    axes: Axes = ()
    for position in side:
        axes += order[position]
    return axes


def _check_sizes(axes: MatrixAxes, length: int, shape: Sequence[int]) -> None:
    if min(axes.split_sizes) < 1:
        raise InputError(f"split_sizes are {axes.split_sizes}; give each block at least length 1")
    if sum(axes.split_sizes) != length:
        raise InputError(
            f"split_sizes {axes.split_sizes} do not add up to {length}, "
            f"the length of axis {axes.split_axis} of {tuple(shape)}"
        )


def _from_the_end(axes: int | Axes, shape: Sequence[int]) -> Axes:
    rank = len(shape)
    result = []
    for axis in (axes,) if isinstance(axes, int) else tuple(axes):
        if not -rank <= axis < rank:
            raise InputError(
                f"axis {axis} does not exist in shape {tuple(shape)}; state an axis below {rank}"
            )
        result.append(axis if axis < 0 else axis - rank)
    return tuple(result)
