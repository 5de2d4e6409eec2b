"""AdamW of PyTorch itself, made to skip each gradient that is not finite."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from celo2.torch.rates import scaled
from celo2.torch.step import is_at_hand

TILE = 1 << 20
"""Entries a call: what has to be copied for the kernel, since it is of another dtype or layout, is copied by so many."""


def init(p: Tensor) -> dict[str, Tensor]:
    """Fresh moments, in float32 for parameters of less precision; the count of steps is kept beside them."""
    dtype = torch.promote_types(p.dtype, torch.float32)
    return {
        "exp_avg": torch.zeros_like(p, dtype=dtype, memory_format=torch.contiguous_format),
        "exp_avg_sq": torch.zeros_like(p, dtype=dtype, memory_format=torch.contiguous_format),
    }


class AdamWJob(NamedTuple):
    """A parameter to be moved, in place; nothing changes where `finite` (0-d bool) is false."""

    p: Tensor
    g: Tensor
    state: dict[str, Tensor]
    finite: Tensor
    group: dict[str, Any]


class _Block(NamedTuple):
    p: Tensor
    g: Tensor
    first: Tensor
    second: Tensor
    count: Tensor
    finite: Tensor


def step_all(jobs: Iterable[AdamWJob]) -> None:
    """One update of each parameter; those of a group come one after the other."""
    for _, of_group in itertools.groupby(jobs, key=lambda job: id(job.group)):
        together = list(of_group)
        for batch in _batches(together):
            _step_batch(batch, together[0].group)


def _batches(jobs: Sequence[AdamWJob]) -> Iterator[list[_Block]]:
    """What one call of the kernel takes. A call skips all or nothing.

    On a CPU, where a look at a flag costs no wait, that is as many blocks as make a tile, without those to be skipped.
    Elsewhere it is one block.
    """
    batch: list[_Block] = []
    for job in jobs:
        at_hand = is_at_hand(job.finite)
        if at_hand and not job.finite.numpy():
            continue
        for block in _blocks(job):
            if batch and not (at_hand and _may_join(block, batch)):
                yield batch
                batch = []
            batch.append(block)
    if batch:
        yield batch


def _may_join(block: _Block, batch: Sequence[_Block]) -> bool:
    """Not if they make more than a tile, wait for a device, or are of one storage: a copy of either would undo the other."""
    if not is_at_hand(batch[0].finite) or sum(b.p.numel() for b in batch) + block.p.numel() > TILE:
        return False
    return all(b.p.data_ptr() != block.p.data_ptr() for b in batch)


def _blocks(job: AdamWJob) -> Iterator[_Block]:
    """The parameter whole if the kernel can have it as it is, else in blocks of rows of about a tile."""
    tensors = [x if x.ndim else x[None] for x in (job.p, job.g, job.state["exp_avg"], job.state["exp_avg_sq"])]
    p, g, first, _ = tensors
    as_it_is = all(x.dtype == first.dtype and x.is_contiguous() for x in (p, g))
    rows = len(p) if as_it_is or not p.numel() else max(1, TILE * len(p) // p.numel())
    before = job.state["step"].clone()
    for i, parts in enumerate(zip(*(x.split(rows) for x in tensors), strict=True)):
        yield _Block(*parts, count=job.state["step"] if i == 0 else before.clone(), finite=job.finite)


def _step_batch(batch: Sequence[_Block], group: dict[str, Any]) -> None:
    """The fused kernel is the one of torch's that can be told, on the device, to skip a step.

    It goes through memory without regard to strides, so everything it is given is contiguous.
    """
    lr, weight_decay = scaled(group)
    wide = [block.p.to(block.first.dtype).contiguous() for block in batch]
    adamw(
        wide,
        [block.g.to(block.first.dtype).contiguous() for block in batch],
        [block.first for block in batch],
        [block.second for block in batch],
        [],
        [block.count for block in batch],
        fused=True,
        found_inf=(~batch[0].finite).to(torch.float32),
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=lr,
        weight_decay=weight_decay,
        eps=group["eps"],
        maximize=False,
    )
    for block, x in zip(batch, wide, strict=True):
        if x is not block.p:
            block.p.copy_(x)
