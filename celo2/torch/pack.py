"""Matrices as kernels take them: axes merged, small ones stacked; and the way back into the state.

Results are those of one by one: nothing in a step goes from matrix to matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from celo2.rule import Accumulators
from celo2.torch.plan import MatrixBatch


def pack(stack: Sequence[MatrixBatch]) -> MatrixBatch:
    """Merge the axes of batches and stack them in a batch (..., n, a, b).

    One batch alone is not copied, where its axes merge in place and its kernels take it as it lies.
    """
    merged = list(map(_merge, stack))
    # Small matrices cost operators, not elements: copying them costs less than it saves. In float32
    # and with three momenta, 24 bytes per element are copied here and 20 back, of at most
    # `Limits.stack` elements at a time.
    if len(merged) > 1:
        return _stack(merged)
    # Eager kernels take any strides, so a matrix alone is updated where it lies.
    return _dense(merged[0]) if merged[0].rule.kernels.fused else merged[0]


def unpack(packed: MatrixBatch, stack: Sequence[MatrixBatch]) -> None:
    """Write back what `pack` had to copy."""
    batch_axes = stack[0].matrices
    # What `pack` returned as a view was written in place; a copy has memory of its own.
    for new, *places in zip(_written(packed), *map(_written, stack), strict=True):
        if len(stack) == 1:
            parts = [new]
        else:
            # The stacked axis is undone as a view; each part then goes back where it came from.
            size = len(stack), *stack[0].window.batch
            parts = new.unflatten(-3, size).unbind(-3 - batch_axes)
        for place, part in zip(places, parts, strict=True):
            if place.data_ptr() != part.data_ptr():
                place.copy_(part.reshape(place.shape))


def _written(batch: MatrixBatch) -> list[Tensor]:
    """Return the tensors that a step overwrites; the gradient is not among them."""
    averages, factored = batch.accumulators
    return [batch.p, averages, *factored]


def _merge(batch: MatrixBatch) -> MatrixBatch:
    """Merge (..., *batch, *rows, *columns) to (..., *batch, a, b), as views where strides allow."""
    rows, columns = len(batch.window.rows), len(batch.window.columns)

    def merge(x: Tensor) -> Tensor:
        # `flatten` returns a view unless the strides of the merged axes forbid it, as those of a
        # slice may; layouts list the axes in memory order, so that this is rare.
        x = x.flatten(-rows - columns, -1 - columns) if rows > 1 else x
        return x.flatten(-columns) if columns > 1 else x

    averages, factored = batch.accumulators
    # Factored moments have the axes of one side: R becomes (k, ..., a, 1), C and D (k, ..., 1, b).
    # They are a + b numbers per decay and matrix, so a copy of them would cost nothing either.
    *along_b, along_a = factored
    sides = []
    for r in along_b:
        sides.append(r.flatten(-rows)[..., None])
    sides.append(along_a.flatten(-columns)[..., None, :])
    accumulators = Accumulators(merge(averages), tuple(sides))
    return batch._replace(accumulators=accumulators, g=merge(batch.g), p=merge(batch.p))


def _stack(batches: Sequence[MatrixBatch]) -> MatrixBatch:
    """Copy equal batches into one (n, a, b) that lies in memory as its matrices do."""
    first = batches[0]
    transposed, batch_axes = is_transposed(first.p), first.matrices
    count = first.p.shape[:-2].numel()

    def stack(tensors: Sequence[Tensor], transposed: bool = False) -> Tensor:
        # One copy, in memory order, so that the stack is transposed where its matrices are and
        # both reading and writing are sequential.
        laid = [x.mT if transposed else x for x in tensors]
        x = torch.stack(laid, -3 - batch_axes).flatten(-3 - batch_axes, -3)
        return x.mT if transposed else x

    def number(numbers: Sequence[Tensor]) -> Tensor:
        """Return one number (n, 1, 1) per matrix from one per batch or per matrix."""
        each = [x.expand(*first.p.shape[:-2], 1, 1).reshape(-1) for x in numbers]
        return torch.cat(each).view(-1, 1, 1)

    # Field by field what the batches hold. Learning rate and weight decay are the same objects
    # in all of them (see `stack_key`); the flags and the step may differ, so each has its own.
    *_, accumulators, g, p, inputs = zip(*batches, strict=True)
    averages, factored = zip(*accumulators, strict=True)
    finite, active, step, *_ = zip(*inputs, strict=True)
    sides = map(stack, zip(*factored, strict=True))
    return first._replace(
        window=first.window._replace(batch=(len(batches) * count,)),
        accumulators=Accumulators(stack(averages, transposed), tuple(sides)),
        g=stack(g, transposed),
        p=stack(p, transposed),
        inputs=first.inputs._replace(
            finite=number(finite), active=number(active), step=number(step)
        ),
    )


def _dense(batch: MatrixBatch) -> MatrixBatch:
    """Return a batch as fused kernels take it, so that they are compiled for few kinds.

    It has no gaps in memory and at most one batch axis, with a number per matrix or, for one matrix
    alone, numbers without axes.
    """
    transposed, batch_axes = is_transposed(batch.p), batch.matrices

    def dense(x: Tensor) -> Tensor:
        x = x.mT if transposed else x
        x = x.flatten(-2 - batch_axes, -3) if batch_axes > 1 else x
        # A copy only where rows have gaps between them, as windows of larger tensors have.
        x = x if x.stride(-1) == 1 and x.stride(-2) == x.shape[-1] else x.contiguous()
        return x.mT if transposed else x

    averages, factored = batch.accumulators
    p = dense(batch.p)
    shape = (len(p), 1, 1) if batch_axes else ()

    def side(x: Tensor) -> Tensor:
        return x.reshape(len(x), *shape[:1], *x.shape[-2:])

    def number(x: Tensor) -> Tensor:
        # As many axes for one batch as for another: each rank of tensor is a kernel of its own.
        if not batch_axes:
            return x.reshape(())
        return x.expand(*batch.window.batch, 1, 1).reshape(shape).contiguous()

    finite, active, step, *numbers = batch.inputs
    return batch._replace(
        window=batch.window._replace(batch=shape[:1]),
        accumulators=Accumulators(dense(averages), tuple(map(side, factored))),
        g=dense(batch.g),
        p=p,
        inputs=type(batch.inputs)(number(finite), number(active), number(step), *numbers),
    )


def is_transposed(p: Tensor) -> bool:
    """Return whether the columns of p (..., a, b) are further apart in memory than its rows.

    Those of most Linear layers are, stored (out, in) and read with the shorter side first.
    """
    return p.stride(-1) > p.stride(-2)
