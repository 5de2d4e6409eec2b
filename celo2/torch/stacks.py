"""Small matrices of one shape take their step together: one operator for all of them in the place of one for each.

What a small matrix costs is the number of operators. Numbers are those of one by one, since nothing in a step goes from
matrix to matrix.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor

from celo2.rule import Accumulators
from celo2.torch.step import Job, is_turned, step_

LIMIT = 1 << 18
"""Entries of a stack, if a tile is not smaller still."""
MEMBERS = 4
"""A matrix is small if so many of it fit into a stack; of larger ones the copies cost more than the operators (measured)."""


def is_small(job: Job) -> bool:
    """Whether the matrices may go into a stack."""
    return job.p.numel() * MEMBERS <= min(LIMIT, job.rule.passes.tile)


def step_all(jobs: Iterable[Job]) -> None:
    """Each job's step; in stacks, where there are several small ones of a kind."""
    kinds: dict[Hashable, list[Job]] = defaultdict(list)
    for job in jobs:
        kinds[_kind(job)].append(job)
    for alike in kinds.values():
        # Two parameters of one storage would both be copied out of it, and the second one back over the first.
        apart = is_small(alike[0]) and len({job.p.data_ptr() for job in alike}) == len(alike)
        count = min(LIMIT, alike[0].rule.passes.tile) // alike[0].p.numel() if apart else 1
        for start in range(0, len(alike), count):
            stack = alike[start : start + count]
            if len(stack) == 1:
                step_(stack[0])
            else:
                _step_stack(stack)


def _kind(job: Job) -> Hashable:
    """What jobs of a stack have in common; rules, rates and weight decays are the same objects."""
    tensors = (job.p, job.g, job.accumulators.momentum)
    of_group = (id(job.rule), id(job.how.rate), id(job.how.weight_decay))
    is_vector = len(job.accumulators.factored) == 1  # or a matrix of one row
    return job.p.shape, is_vector, is_turned(job.p), job.p.device, tuple(x.dtype for x in tensors), of_group


def _step_stack(jobs: Sequence[Job]) -> None:
    """Copied into one batch (n, a, b) that lies in memory as its matrices do, moved, and copied back."""
    turned, batch = is_turned(jobs[0].p), jobs[0].p.ndim - 2
    count = len(jobs) * jobs[0].p.shape[:-2].numel()

    def stacked(tensors: Iterable[Tensor], turned: bool = False) -> Tensor:
        """Of tensors (..., *batch, a, b): (..., n, a, b)."""
        laid = [x.mT if turned else x for x in tensors]
        x = torch.stack(laid, -3 - batch).flatten(-3 - batch, -3)
        return x.mT if turned else x

    def of_each(numbers: Iterable[Tensor]) -> Tensor:
        """Of 0-d tensors, one a job: (n, 1, 1)."""
        return torch.stack(list(numbers)).repeat_interleave(count // len(jobs)).view(-1, 1, 1)

    accumulators = Accumulators(
        stacked((job.accumulators.momentum for job in jobs), turned),
        stacked((job.accumulators.second_moment for job in jobs), turned),
        tuple(stacked(each) for each in zip(*(job.accumulators.factored for job in jobs), strict=True)),
    )
    g, p = stacked((job.g for job in jobs), turned), stacked((job.p for job in jobs), turned)
    how = jobs[0].how._replace(finite=of_each(job.how.finite for job in jobs), count=of_each(job.how.count for job in jobs))
    step = Job(jobs[0].rule, accumulators, g, p, how)
    step_(step)
    for new, *places in zip(_written(step), *map(_written, jobs), strict=True):
        parts = new.unflatten(-3, (len(jobs), *jobs[0].p.shape[:-2])).unbind(-3 - batch)
        for place, part in zip(places, parts, strict=True):
            place.copy_(part)


def _written(job: Job) -> list[Tensor]:
    """What a step overwrites."""
    return [job.p, job.accumulators.momentum, job.accumulators.second_moment, *job.accumulators.factored]
