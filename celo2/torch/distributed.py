"""Parameters sharded along one axis (FSDP2, HSDP): what a step asks of other ranks.

State stays in shards, and results match single-process training. Sums over a matrix are
all-reduced, once for all matrices of a shape. Newton-Schulz needs whole matrices: one all-to-all
gives each rank its share of them, another returns the steps. A local matrix is one shard of one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from celo2.errors import InputError
from celo2.torch.layout import Sharding

if TYPE_CHECKING:
    from celo2.torch.plan import MatrixBatch


class Exchange(Protocol):
    """What batches of matrices that are updated together exchange with other ranks."""

    def sum(self, sums: Sequence[Sequence[Tensor]]) -> Sequence[Sequence[Tensor]]:
        """Return sums over the full matrices, of each batch, from those over local elements."""
        ...

    def orthogonalize(
        self, batches: Sequence[MatrixBatch], directions: Sequence[Tensor]
    ) -> list[Tensor]:
        """Orthogonalize the local parts of directions, in place, each as a part of its matrix.

        Returns what each matrix of a direction is multiplied by to have RMS 1, (..., 1, 1).
        """
        ...


class Local:
    """The exchange of matrices that lie on this rank: there is none."""

    def sum(self, sums: Sequence[Sequence[Tensor]]) -> Sequence[Sequence[Tensor]]:
        """Return the sums as they are."""
        return sums

    def orthogonalize(
        self, batches: Sequence[MatrixBatch], directions: Sequence[Tensor]
    ) -> list[Tensor]:
        """Orthogonalize each matrix."""
        return list(map(_orthogonalize, batches, directions))


LOCAL = Local()


class Sharded(NamedTuple):
    """The exchange of matrices that are divided over the ranks of a process group."""

    group: dist.ProcessGroup

    def sum(self, sums: Sequence[Sequence[Tensor]]) -> Sequence[Sequence[Tensor]]:
        """Add up all tensors over the ranks, in one all-reduce."""
        # 1. Copy the small tensors of all matrices into one message: what a message costs is
        # latency, and there are only a + b + a few floats per matrix (a, b) in it.
        tensors = list(itertools.chain.from_iterable(sums))
        message = _joined(tensors)
        # 2. Every rank waits here for the slowest one of its group.
        dist.all_reduce(message, group=self.group)
        # 3. What came back is cut as it was joined, into views of the message.
        rest = iter(_parts(message, tensors))
        totals = []
        for of_batch in sums:
            totals.append(list(itertools.islice(rest, len(of_batch))))
        return totals

    def orthogonalize(
        self, batches: Sequence[MatrixBatch], directions: Sequence[Tensor]
    ) -> list[Tensor]:
        """Orthogonalize whole matrices, each on one rank; they are dealt out in turn."""
        if not batches[0].window.divides_matrices:
            return LOCAL.orthogonalize(batches, directions)
        # 1. One shard per matrix, in the same order on all ranks: views, through which the
        # directions are overwritten in step 4.
        shards: list[_Shard] = []
        for batch, d in zip(batches, directions, strict=True):
            for x in d.flatten(0, -3) if d.ndim > 2 else d[None]:
                shards.append(_Shard(batch, x))
        ranks, here = dist.get_world_size(self.group), dist.get_rank(self.group)
        mine = shards[here::ranks]
        local, to_ranks, from_ranks = [], [], []
        for rank in range(ranks):
            theirs = shards[rank::ranks]
            local += [shard.local for shard in theirs]
            to_ranks.append(_elements(theirs, here))
            from_ranks.append(_elements(mine, rank))

        # 2. Send each shard to the owner of its matrix, ordered by owner. All local elements are
        # copied into the message once, in the working dtype (4 bytes each in float32), and all but
        # those of own matrices travel; each rank waits until the others have sent their shards.
        sent = _joined(local)
        received = sent.new_empty(sum(from_ranks))
        dist.all_to_all_single(received, sent, from_ranks, to_ranks, group=self.group)

        # 3. Assemble own matrices, orthogonalize them, and write their parts over the message.
        # Ranks that own fewer of them wait in step 4.
        _orthogonalize_message(received, [shard.batch for shard in mine], ranks)

        # 4. Return the parts the same way, into the buffers of step 2: as many bytes again, but no
        # third buffer.
        dist.all_to_all_single(sent, received, to_ranks, from_ranks, group=self.group)
        for x, values in zip(local, _parts(sent, local), strict=True):
            x.copy_(values)
        return [d.new_ones(1, 1) for d in directions]


def _orthogonalize_message(message: Tensor, owned: Sequence[MatrixBatch], ranks: int) -> None:
    """Orthogonalize the matrices in a message that holds, per rank, a part of each."""
    # 1. Copy the message into whole matrices. It is ordered by rank and then by matrix, while the
    # shards of one matrix must be neighbors to be multiplied.
    matrices, parts = [], []
    for batch in owned:
        matrices.append(message.new_empty(batch.window.a, batch.window.b))
    for rank in range(ranks):
        for batch, matrix in zip(owned, matrices, strict=True):
            parts.append(batch.window.part(matrix, rank))
    places = _parts(message, parts)
    for part, place in zip(parts, places, strict=True):
        part.copy_(place)

    # 2. Orthogonalize in place, one after the other, and bring each to RMS 1 here, since no other
    # rank sees it whole.
    for batch, matrix in zip(owned, matrices, strict=True):
        matrix.mul_(_orthogonalize(batch, matrix))

    # 3. Copy the parts back over what was received: the return message has the same order.
    for part, place in zip(parts, places, strict=True):
        place.copy_(part)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Copy the elements of tensors, one after the other, into one message."""
    return torch.cat([x.reshape(-1) for x in tensors])


def _parts(message: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return what belongs to each tensor in a joined message, as views in their shapes."""
    sizes = [x.numel() for x in tensors]
    parts = []
    for part, x in zip(message.split(sizes), tensors, strict=True):
        parts.append(part.view(x.shape))
    return parts


class _Shard(NamedTuple):
    """The local part of one matrix."""

    batch: MatrixBatch
    local: Tensor

    def numel(self, rank: int) -> int:
        """Return the number of elements of the matrix on a rank."""
        window = self.batch.window
        assert window.axis is not None
        start, end = window.spans[rank]
        length = (*window.rows, *window.columns)[window.axis]
        return window.a * window.b // length * (end - start)


def _elements(shards: Sequence[_Shard], rank: int) -> int:
    """Return how many elements of some matrices lie on a rank."""
    return sum(shard.numel(rank) for shard in shards)


def _orthogonalize(batch: MatrixBatch, d: Tensor) -> Tensor:
    spec, orthogonalize = batch.rule.spec, batch.rule.orthogonalize
    assert orthogonalize is not None
    if d.numel():
        orthogonalize(spec, d)
    return rms_scale(spec.normalize_epsilon, sum_of_squares(d) / (d.shape[-2] * d.shape[-1]))


def sum_of_squares(d: Tensor) -> Tensor:
    """Return the sum of squares of each matrix (..., a, b), (..., 1, 1)."""
    norm = torch.linalg.vector_norm(d, dim=(-2, -1), keepdim=True)
    return norm * norm


def rms_scale(epsilon: float, mean_square: Tensor) -> Tensor:
    """Return what a matrix of that mean square is multiplied by to have RMS 1."""
    return 1 / torch.sqrt(epsilon + mean_square)


class Shards(NamedTuple):
    """How a parameter is divided over the ranks of a process group."""

    axis: int
    group: dist.ProcessGroup

    @property
    def sharding(self) -> Sharding:
        """Return the same without the group."""
        return Sharding(self.axis, dist.get_world_size(self.group), dist.get_rank(self.group))


def shards(p: Any, name: str) -> Shards | None:
    """Return how a parameter is sharded; None where every rank has all of it.

    Raises:
        InputError: it is sharded along two axes, or not in equal blocks.
    """
    if not is_dtensor(p):
        return None
    from torch.distributed.tensor import Shard

    divided = []
    for i, place in enumerate(p.placements):
        # A mesh axis of one rank divides nothing.
        if not place.is_replicate() and (type(place) is not Shard or p.device_mesh.size(i) > 1):
            divided.append((i, place))
    if not divided:
        return None
    if len(divided) > 1 or type(divided[0][1]) is not Shard:
        raise InputError(
            f"{name} is laid out as {tuple(p.placements)}; Celo2 takes parameters that are sharded "
            "along one axis, as FSDP2 and HSDP do, and no tensor parallelism on top"
        )
    mesh_axis, place = divided[0]
    return Shards(place.dim % p.ndim, p.device_mesh.get_group(mesh_axis))


def mean_square(p: Tensor, name: str) -> float:
    """Return the mean square of a parameter over all ranks; waits for the device."""
    norm = torch.linalg.vector_norm(
        local(p.detach()).to(torch.promote_types(p.dtype, torch.float32))
    )
    total, found = norm * norm, shards(p, name)
    if found is not None:
        # One number travels, and every rank waits for all others of its group.
        dist.all_reduce(total, group=found.group)
    return float(total) / p.numel()


def local(x: Any) -> Tensor:
    """Return the part of a tensor on this rank."""
    return x.to_local() if is_dtensor(x) else x


def is_dtensor(x: Tensor) -> bool:
    """Return whether x is a DTensor, without importing its package, which few users need."""
    return hasattr(x, "device_mesh")


def zeros(p: Any, dtype: torch.dtype, copies: int | None = None) -> Tensor:
    """Return zeros laid out and placed as p is, or `copies` of them on a new first axis."""
    mine = torch.zeros_like(local(p), dtype=dtype, memory_format=torch.preserve_format)
    if copies is not None:
        # torch.stack would give channels-last parameters a contiguous momentum.
        strides = (mine.numel(), *mine.stride())
        mine = mine.new_empty(0).new_empty_strided((copies, *mine.shape), strides).zero_()
    if not is_dtensor(p):
        return mine
    from torch.distributed.tensor import DTensor, Shard

    front = [] if copies is None else [copies]
    placements = []
    for place in p.placements:
        placements.append(Shard(place.dim + len(front)) if isinstance(place, Shard) else place)
    full = torch.empty([*front, *p.shape], device="meta")
    return DTensor.from_local(
        mine, p.device_mesh, placements, run_check=False, shape=full.shape, stride=full.stride()
    )


def gradient(p: Any) -> Tensor | None:
    """Return the local gradient of p, placed as p is: its own may be partial sums."""
    g = p.grad
    if g is not None and is_dtensor(g) and g.placements != p.placements:
        # Partial sums are added up in a reduce-scatter, which all ranks of the mesh must join.
        g = g.redistribute(p.device_mesh, p.placements)
    return None if g is None else local(g)


def agree(flags: Sequence[Tensor], groups: Sequence[dist.ProcessGroup]) -> list[Tensor]:
    """Combine flags over the ranks: one is True where it is True on all ranks of its group.

    Every rank must join each collective, or the others deadlock: all ranks pass flags of the same
    parameters, also of those that have no gradient on this one.

    Args:
        flags: 1-d bool, per parameter.
        groups: its process group, per parameter. There is one all-reduce per group.
    """
    result = list(flags)
    # Groups are in the order of their first parameter, which is the same on all ranks; another
    # order of collectives on one of them would deadlock.
    members: dict[dist.ProcessGroup, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    for group, indices in members.items():
        own = [flags[i] for i in indices]
        # MIN of bytes is "and"; one byte per flag travels, and every rank waits for all others.
        message = _joined(own).to(torch.uint8)
        dist.all_reduce(message, dist.ReduceOp.MIN, group=group)
        for i, part in zip(indices, _parts(message.bool(), own), strict=True):
            result[i] = part
    return result
