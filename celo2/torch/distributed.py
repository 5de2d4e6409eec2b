"""The step for parameters sharded along one axis (FSDP2, HSDP): state stays in shards, numbers are those of one process.

What a matrix is normalised by is summed over all ranks between the passes, in one all-reduce for all matrices of a shape. For
Newton-Schulz, which needs whole matrices, one all-to-all gives each rank its share of them, and another takes the steps back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from celo2.errors import InputError
from celo2.parameters.state import ParameterState, unpack
from celo2.parameters.views import MatrixAxes, MatrixView, matrix_views
from celo2.rule import Accumulators
from celo2.torch.step import Job, Move, Rule, Window, direction, is_finite, mean_square, move, size, step_


def local(x: Any) -> Tensor:
    """What of a tensor lies on this rank."""
    return x.to_local() if is_spread(x) else x


def is_spread(x: Tensor) -> bool:
    """Whether a tensor is a DTensor; told without the import of its package, which is for those alone who use it."""
    return hasattr(x, "device_mesh")


class Shards(NamedTuple):
    """How a parameter is spread over the ranks of a process group."""

    axis: int
    group: dist.ProcessGroup

    def span(self, length: int, rank: int) -> tuple[int, int]:
        """Start and end on a rank of an axis of that length; the last ranks may have less, or nothing."""
        each = -(-length // dist.get_world_size(self.group))
        return min(rank * each, length), min((rank + 1) * each, length)


def shards(p: Any, name: str) -> Shards | None:
    """How a parameter is sharded; None where every rank has all of it.

    Raises:
        InputError: along two axes, or in a way that is not of equal blocks.
    """
    if not is_spread(p):
        return None
    from torch.distributed.tensor import Shard

    cut = [
        (i, place)
        for i, place in enumerate(p.placements)
        if not place.is_replicate() and (type(place) is not Shard or p.device_mesh.size(i) > 1)
    ]
    if not cut:
        return None
    if len(cut) > 1 or type(cut[0][1]) is not Shard:
        raise InputError(
            f"{name} is laid out as {tuple(p.placements)}; Celo2 takes parameters that are sharded along one axis, as FSDP2 "
            "and HSDP do, and no tensor parallelism on top"
        )
    mesh_axis, place = cut[0]
    return Shards(place.dim % p.ndim, p.device_mesh.get_group(mesh_axis))


def zeros(p: Any, dtype: torch.dtype, copies: int | None = None) -> Tensor:
    """Zeros laid out and spread as p is, or `copies` of them along a new first axis."""
    mine = torch.zeros_like(local(p), dtype=dtype, memory_format=torch.preserve_format)
    mine = mine if copies is None else torch.stack([mine] * copies)
    if not is_spread(p):
        return mine
    from torch.distributed.tensor import DTensor, Shard

    front = [] if copies is None else [copies]
    placements = [Shard(place.dim + len(front)) if isinstance(place, Shard) else place for place in p.placements]
    whole = torch.empty([*front, *p.shape], device="meta")
    return DTensor.from_local(mine, p.device_mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride())


def gradient(p: Any) -> Tensor | None:
    """The gradient of p as p is laid out; its own layout may be another, as partial sums are."""
    g = p.grad
    if g is not None and is_spread(g) and g.placements != p.placements:
        g = g.redistribute(p.device_mesh, p.placements)
    return g


def all_finite(gradients: Sequence[Tensor | None], groups: Sequence[dist.ProcessGroup]) -> list[tuple[Tensor, Tensor]]:
    """(whether some rank has a gradient, whether all that have one have it finite), 0-d; one all-reduce a process group.

    Ranks may differ in who has one. All of them take part in every parameter's step all the same, or would wait for ever.
    """
    flags: list[tuple[Tensor, Tensor]] = [_flags(g) for g in gradients]
    for group in dict.fromkeys(groups):
        mine = [i for i, other in enumerate(groups) if other is group]
        together = torch.stack([torch.stack(flags[i]) for i in mine]).to(torch.uint8)
        dist.all_reduce(together, dist.ReduceOp.MIN, group=group)
        for i, (absent, finite) in zip(mine, together.bool(), strict=True):
            flags[i] = ~absent, finite
    return flags


def _flags(g: Tensor | None) -> tuple[Tensor, Tensor]:
    true = torch.ones((), dtype=torch.bool, device=None if g is None else g.device)
    return (true, true) if g is None else (~true, is_finite(g) if g.numel() else true)


class Matrices(NamedTuple):
    """A batch of matrices of one parameter, of which a part lies here."""

    shards: Shards
    window: Window
    axis: int
    """Which axis of (..., a, b) is sharded, from the end."""
    spans: tuple[tuple[int, int], ...]
    """Where on it each rank's part starts and ends."""
    accumulators: Accumulators
    g: Tensor
    p: Tensor


def matrices(p: Any, g: Tensor, state: ParameterState, shards_: Shards, parts: Sequence[MatrixView]) -> Iterator[Matrices]:
    """The matrices of a sharded parameter, as `parts` reads it as a whole."""
    lengths = p.shape[shards_.axis]
    ranks = range(dist.get_world_size(shards_.group))
    here = dist.get_rank(shards_.group)
    spans = [shards_.span(lengths, rank) for rank in ranks]
    whole = torch.empty(p.shape, device="meta")
    sharded_axis = shards_.axis - p.ndim
    views = unpack(torch, parts, ParameterState(whole.expand(3, *whole.shape), whole, state.row_moments, state.column_moments))
    mine = ParameterState(*map(local, state))
    for part, (_, _, factored) in zip(parts, views, strict=True):
        seen = part.view(torch, whole)
        split = sharded_axis == part.split
        for block, index in part.blocks() if split else [(part, None)]:
            own, shape, factors = block, seen.shape, factored
            block_spans = spans
            if split:
                block_spans = [_intersection(block, span) for span in spans]
                own = block.cut(block_spans[here], spans[here][0])
                shape = block.view(torch, whole).shape
            if index is not None:
                blocks_axis = part.axes(p.ndim).index(()) - seen.ndim
                factors = tuple(f.select(blocks_axis, index) for f in factored)
            (axis,) = (i - len(shape) for i, own_axes in enumerate(block.axes(p.ndim)) if sharded_axis in own_axes)
            window = [slice(None)] * len(shape)
            window[axis] = slice(*block_spans[here])
            accumulators = Accumulators(own.view(torch, mine.momentum), own.view(torch, mine.second_moment), factors)
            yield Matrices(
                shards_, Window(tuple(shape), tuple(window)), axis, tuple(block_spans), accumulators,
                own.view(torch, local(g)), own.view(torch, local(p)),
            )  # fmt: skip


def _intersection(block: MatrixView, span: tuple[int, int]) -> tuple[int, int]:
    """What of a block, counted from its start, lies in a span of the axis."""
    return tuple(min(max(end - block.start, 0), block.size) for end in span)  # type: ignore[return-value]


def step_vector(rule_: Rule, state: ParameterState, g: Any, p: Any, shards_: Shards, how: Move) -> None:
    """A sharded vector under celo2-base: small, so that every rank moves all of it and keeps its part."""
    momentum, second_moment, whole_g, whole_p = (x.full_tensor() for x in (state.momentum, state.second_moment, g, p))
    (part,) = matrix_views(p.shape, MatrixAxes())
    (accumulators,) = unpack(torch, [part], ParameterState(momentum, second_moment, state.row_moments, state.column_moments))
    step_(Job(rule_, accumulators, part.view(torch, whole_g), part.view(torch, whole_p), how))
    here = slice(*shards_.span(len(whole_p), dist.get_rank(shards_.group)))
    for kept, new in zip((state.momentum, state.second_moment, p), (momentum, second_moment, whole_p), strict=True):
        local(kept).copy_(new[..., here])


class ShardedJob(NamedTuple):
    """Matrices and what is to be done with them."""

    matrices: Matrices
    rule: Rule
    how: Move

    @property
    def kind(self) -> tuple[Any, ...]:
        """Jobs of one kind share their communication."""
        *_, a, b = self.matrices.window.shape
        return a, b, self.rule.theta.w0.dtype, self.rule.orthogonalize is None, self.matrices.axis, self.matrices.shards.group


def step_all(jobs: Sequence[ShardedJob]) -> None:
    """One step of the rule for all jobs; every rank calls it with the same ones."""
    kinds: dict[tuple[Any, ...], list[ShardedJob]] = defaultdict(list)
    for job in jobs:
        kinds[job.kind].append(job)
    for together in kinds.values():
        _step_kind(together)


def _step_kind(jobs: Sequence[ShardedJob]) -> None:
    group, axis = jobs[0].matrices.shards.group, jobs[0].matrices.axis
    work = [direction(j.rule, j.matrices.accumulators, j.matrices.g, j.matrices.p, j.how, j.matrices.window) for j in jobs]
    results = _drive(work, group)
    if jobs[0].rule.orthogonalize is None:
        squares = [
            j.matrices.window.spread(d.square().sum((-2, -1), keepdim=True)) for j, (d, _) in zip(jobs, results, strict=True)
        ]
        for job, (d, moved), total in zip(jobs, results, _reduced([squares], group)[0], strict=True):
            *_, a, b = job.matrices.window.shape
            mean = job.matrices.window.near(total) / (a * b)
            move(job.rule, job.matrices.p, d, size(job.rule.spec, mean, moved), job.how)
    elif axis < -2:  # each matrix lies whole on one rank
        for job, (d, moved) in zip(jobs, results, strict=True):
            if d.numel():
                d = job.rule.orthogonalize(job.rule.spec, d)  # type: ignore[misc]
                move(job.rule, job.matrices.p, d, size(job.rule.spec, mean_square(d), moved), job.how)
    else:
        steps = _orthogonalized(jobs, [d for d, _ in results], axis, group)
        for job, u, (_, moved) in zip(jobs, steps, results, strict=True):
            move(job.rule, job.matrices.p, u, moved.to(u.dtype), job.how)


def _drive(work: Sequence[Any], group: dist.ProcessGroup) -> list[tuple[Tensor, Tensor]]:
    """The results of `direction` for many matrices, side by side: each time one all-reduce of what all of them yield."""
    sums = [next(each) for each in work]
    while True:
        sums, results = _reduced(sums, group), []
        following = []
        for each, total in zip(work, sums, strict=True):
            try:
                following.append(each.send(total))
            except StopIteration as end:
                results.append(end.value)
        if results:
            return results
        sums = following


def _reduced(sums: Sequence[Sequence[Tensor]], group: dist.ProcessGroup) -> list[list[Tensor]]:
    """All tensors summed over the ranks, in one all-reduce."""
    flat = torch.cat([x.reshape(-1) for each in sums for x in each])
    dist.all_reduce(flat, group=group)
    rest = iter(flat.split([x.numel() for each in sums for x in each]))
    return [[next(rest).view(x.shape) for x in each] for each in sums]


def _orthogonalized(jobs: Sequence[ShardedJob], d: Sequence[Tensor], axis: int, group: dist.ProcessGroup) -> list[Tensor]:
    """Steps of RMS 1 where d lies: whole matrices are dealt out to the ranks in turn, and their steps sent back."""
    ranks, here = dist.get_world_size(group), dist.get_rank(group)
    other = jobs[0].matrices.window.shape[-1 if axis == -2 else -2]
    length = jobs[0].matrices.window.shape[axis]
    # One entry a matrix, in the same order on all ranks: the job it belongs to, and its part here, sharded axis first.
    turned = [x.movedim(axis, -2) for x in d]
    stacks = [x.flatten(0, -3) if x.ndim > 2 else x[None] for x in turned]
    pieces = [(job, piece) for job, stack in zip(jobs, stacks, strict=True) for piece in stack]
    owners = [i % ranks for i in range(len(pieces))]
    lengths = [[end - start for start, end in job.matrices.spans] for job, _ in pieces]
    outgoing = [[i for i, owner in enumerate(owners) if owner == rank] for rank in range(ranks)]
    to_ranks = [sum(lengths[i][here] for i in out) * other for out in outgoing]
    from_ranks = [sum(lengths[i][rank] for i in outgoing[here]) * other for rank in range(ranks)]

    sent = torch.cat([pieces[i][1].reshape(-1) for out in outgoing for i in out])
    received = sent.new_empty(sum(from_ranks))
    dist.all_to_all_single(received, sent, from_ranks, to_ranks, group=group)
    whole = {i: sent.new_empty(length, other) for i in outgoing[here]}

    def parts() -> Iterator[Tensor]:
        for rank in range(ranks):
            for i in outgoing[here]:
                yield whole[i][slice(*pieces[i][0].matrices.spans[rank])]

    for part, values in zip(parts(), received.split([part.numel() for part in parts()]), strict=True):
        part.copy_(values.view(part.shape))
    for i, x in whole.items():
        rule = pieces[i][0].rule
        u = rule.orthogonalize(rule.spec, x if axis == -2 else x.mT)  # type: ignore[misc]
        u.mul_(size(rule.spec, mean_square(u), u.new_ones(1, 1)))
    if whole:
        torch.cat([part.reshape(-1) for part in parts()], out=received)
    dist.all_to_all_single(sent, received, to_ranks, from_ranks, group=group)
    values = iter(sent.split([pieces[i][1].numel() for out in outgoing for i in out]))
    for i in (i for out in outgoing for i in out):
        pieces[i][1].copy_(next(values).view(pieces[i][1].shape))
    return list(d)
