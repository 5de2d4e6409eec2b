"""The only step there is, for local, stacked and sharded matrices alike.

    pack         merge axes, stack small matrices               local copies, where needed
    direction    accumulate, features, MLP, with sums between   all-reduce, where sharded
    orthogonalize                                               all-to-all, where sharded
    finish       to RMS 1, and the guard                        all-reduce, where sharded
    apply        parameter, learning rate, weight decay
    unpack       write back what was copied

`direction` is a generator that yields the sums it needs over full matrices and is sent them back,
so that one all-reduce serves many matrices.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from celo2 import rule
from celo2.parameters.routing import ADAMW
from celo2.rule import Channels
from celo2.torch import adamw
from celo2.torch.distributed import Exchange
from celo2.torch.finish import Result, Scales, guarding_momentum, scales
from celo2.torch.gradients import check
from celo2.torch.kernels import DirectionInputs, Entries, Sides
from celo2.torch.layout import Window
from celo2.torch.pack import is_transposed, pack, unpack
from celo2.torch.plan import Bucket, GroupNumbers, MatrixBatch, Parameter, Planner, buckets
from celo2.torch.stochastic_rounding import Noise, noise

Sums = list[Tensor]


def update_parameters(parameters: Sequence[Parameter], planner: Planner) -> list[Tensor]:
    """Update parameters that have a gradient on some rank; every rank passes the same sharded ones.

    Returns:
        Per parameter, whether its gradient was finite, 0-d; nothing waits for it.
    """
    # 1. Look at every gradient before anything is changed; ranks agree on the flags here.
    checks = check(parameters)
    # 2. Plan: only views and a few numbers are made.
    numbers = GroupNumbers()
    batches: list[MatrixBatch] = []
    by_adamw = []
    for parameter, flags in zip(parameters, checks, strict=True):
        parameter.state["skipped"] += flags.present & ~flags.finite
        if parameter.group["rule"] == ADAMW:
            by_adamw.append(adamw.AdamWInputs.of(parameter, flags))
        else:
            batches += planner.batches(parameter, flags, numbers)
    with without_autocast({parameter.p.device.type for parameter in parameters}):
        # 3. Buckets are updated one after the other: temporaries of one are free before the next.
        # All ranks have the same sharded buckets in the same order, so their messages meet.
        for bucket in buckets(batches, planner.limits):
            update_bucket(bucket)
        # 4. AdamW is element-wise: shards are updated where they are, without messages.
        adamw.update_all(by_adamw)
    return [flags.finite for flags in checks]


def update_bucket(bucket: Bucket) -> None:
    """Update the matrices of a bucket and advance their accumulators, in place."""
    packed = list(map(pack, bucket.stacks))
    update(packed, bucket.exchange)
    for batch, stack in zip(packed, bucket.stacks, strict=True):
        unpack(batch, stack)


def update(batches: Sequence[MatrixBatch], exchange: Exchange) -> None:
    """Update packed batches that share their messages."""
    # 1. Directions, the one temporary of the size of the matrices, and two all-reduces if sharded.
    results = _drive(list(map(direction, batches)), exchange)
    directions = [result.d for result in results]
    # 2. Orthogonalize in that temporary, by two all-to-alls if sharded.
    to_rms_one = None
    if batches[0].rule.orthogonalize is not None:
        to_rms_one = exchange.orthogonalize(batches, directions)
    # 3. Subtract them. The factors are applied on the way, which saves writing d once more.
    found = scales(batches, results, to_rms_one, exchange)
    for batch, d, of_batch in zip(batches, directions, found, strict=True):
        _apply(batch, d, of_batch)


def direction(batch: MatrixBatch) -> Generator[Sums, Sums, Result]:
    """Compute the MLP's output for local elements, and advance the accumulators in place.

    Yields local sums, placed in the full matrices, and is sent the sums over all ranks: first of
    squared gradients along b (..., a, 1) and along a (..., 1, b), of squared plain channels
    (channels, ..., 1, 1) and of magnitudes of momenta (momenta, ..., 1, 1); then of squared
    factored channels.
    """
    spec, theta, kernels = batch.rule.spec, batch.rule.theta, batch.rule.kernels
    window, inputs, factored = batch.window, batch.inputs, batch.accumulators.factored
    # Kernels walk through memory in order: matrices that are stored transposed are transposed for
    # them, and so is what they know about each side.
    transposed = is_transposed(batch.p)
    entries = _entries(batch, transposed)

    # 1. Momenta and V advance in place. Sums of local elements are placed in the full
    # matrices, since another rank may hold other rows of the same columns.
    sums = kernels.accumulate(spec, entries, _noise(batch, transposed))
    along_b, along_a = sums.by_row, sums.by_column
    if transposed:
        along_b, along_a = along_a.mT, along_b.mT
    along_b, along_a, plain, magnitude = yield [
        window.place(along_b, rows=True),
        window.place(along_a, columns=True),
        window.place(sums.plain),
        window.place(sums.magnitude),
    ]

    # 2. Factored moments are replicated: every rank advances all of them, from the same sums, which
    # is cheaper than a message, for a + b numbers per decay.
    means = [along_b / window.b, along_a / window.a][-len(factored) :]
    advanced = rule.accumulate_factored(torch, spec, factored, means)
    for state, new in zip(factored, advanced, strict=True):
        state.copy_(torch.where(inputs.active, new, state))
    factored = tuple(state.to(theta.w0.dtype) for state in factored)

    # 3. Channels are normalized by their RMS over the full matrix; those of the sides are known.
    # Gradient and momenta are read again, because F_i depends on the sums of stage 1.
    factors = _sides(window, rule.preconditioners(torch, spec, factored), transposed)
    (multiplied,) = yield [window.place(kernels.factored_squares(spec, entries, factors))]
    squares = rule.in_order(spec, [*plain], [*multiplied])
    means_of_entries = [x / (window.a * window.b) for x in squares]
    layer, hidden = _folded(batch, factored, means_of_entries, transposed)

    # 4. The MLP, into the one temporary of the size of the matrices.
    d = kernels.direction(spec, theta, entries, DirectionInputs(layer, hidden, factors))
    return Result(d.mT if transposed else d, window.take(magnitude))


def _entries(batch: MatrixBatch, transposed: bool) -> Entries:
    """Return the elements as kernels see them, in memory order."""
    arrays = *batch.accumulators.averages.unbind(), batch.g, batch.p
    if transposed:
        # `mT` is a view: state and parameter are written through it.
        arrays = tuple(x.mT for x in arrays)
    *averages, g, p = arrays
    return Entries(averages, g, p, batch.window.take(batch.inputs.active))


def _folded(
    batch: MatrixBatch, factored: Sequence[Tensor], squares: list[Tensor], transposed: bool
) -> tuple[Tensor, Sides]:
    """Fold the normalization into the first layer of the MLP.

    Args:
        batch: whose MLP it is.
        factored: R and C, full.
        squares: mean squares of the channels of elements, full.
        transposed: whether kernels see the matrices transposed.

    Returns:
        Local weights of the channels of elements, and local products of the layer with those of
        the sides, which are small.
    """
    spec, w0, window = batch.rule.spec, batch.rule.theta.w0, batch.window
    # Channels of the sides are a + b numbers each, so they are materialized; those of elements are
    # known here by their mean squares alone.
    of_sides = rule.side_channels(torch, spec, factored)
    of_sides_squares = [rule.mean_squares(torch, channels) for channels in of_sides]
    layer = rule.fold(torch, spec, w0, Channels(squares, *of_sides_squares), len(factored) == 1)
    products = []
    for weights, channels in zip(layer[1:], of_sides, strict=True):
        if channels:
            # The axis of hidden units moves to the front, where windows do not look.
            products.append(rule.first_layer(torch, weights, channels).movedim(-3, 0))
    row, column = _sides(window, products, transposed)
    hidden = Sides(
        None if row is None else row.movedim(0, -3),
        None if column is None else column.movedim(0, -3),
    )
    return window.take(layer.entries).contiguous(), hidden  # type: ignore[arg-type]


def _sides(window: Window, arrays: Sequence[Tensor], transposed: bool) -> Sides:
    """Return the local parts of a full array per side: two, one along b for vectors, or none."""
    row = window.take(arrays[0], rows=True) if len(arrays) == 2 else None
    column = window.take(arrays[-1], columns=True) if arrays else None
    if not transposed:
        return Sides(row, column)
    return Sides(None if column is None else column.mT, None if row is None else row.mT)


def _noise(batch: MatrixBatch, transposed: bool) -> Noise | None:
    """Return the random bits of state in bfloat16, by the position of elements in full matrices."""
    averages, window = batch.accumulators.averages, batch.window
    if averages.dtype != torch.bfloat16:
        return None
    # One counter per row and per column; the kernel hashes them into bits per element, so that no
    # array of random numbers of the size of the matrix is made or read.
    rows = torch.arange(window.a, dtype=torch.int32, device=averages.device)
    columns = torch.arange(window.b, dtype=torch.int32, device=averages.device)
    if window.divides_matrices:
        # The bits of an element are the same on whichever rank it lies.
        alone = window._replace(batch=())
        rows = alone.take(rows[:, None], rows=True)[:, 0]
        columns = alone.take(columns[None], columns=True)[0]
    random = noise(batch.inputs.step, rows[:, None], columns[None])
    return random.mT if transposed else random


def _drive(work: Sequence[Generator[Sums, Sums, Result]], exchange: Exchange) -> list[Result]:
    """Run `direction` for many batches side by side: they yield sums equally often."""
    sums = [next(each) for each in work]
    while True:
        # One message for all batches: each rank waits twice per bucket, not twice per matrix.
        totals = exchange.sum(sums)
        sums, results = [], []
        for each, total in zip(work, totals, strict=True):
            try:
                sums.append(each.send(list(total)))
            except StopIteration as end:
                results.append(end.value)
        if results:
            return results


def _apply(batch: MatrixBatch, d: Tensor, found: Scales) -> None:
    """Subtract the step and weight decay."""
    inputs, p = batch.inputs, batch.p
    # Matrices without a gradient get weight decay alone.
    active = batch.window.take(inputs.active)
    transposed = is_transposed(p)
    if transposed:
        p, d = p.mT, d.mT
    if found.momentum is None:
        batch.rule.kernels.apply(p, d, found.direction * active, inputs.numbers, inputs.finite)
        return
    m = guarding_momentum(batch)
    both = found.direction * active, found.momentum * active
    m = m.mT if transposed else m
    batch.rule.kernels.apply_guarded(p, d, m, both, inputs.numbers, inputs.finite)


@contextlib.contextmanager
def without_autocast(devices: Iterable[str]) -> Iterator[None]:
    """Keep products in their dtype, also where autocast is on around the optimizer."""
    with contextlib.ExitStack() as stack:
        for device in devices:
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
