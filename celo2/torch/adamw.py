"""AdamW of PyTorch itself, made to skip gradients that are not finite."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from celo2.torch.gradients import Check
from celo2.torch.hyper_parameters import scaled
from celo2.torch.plan import Parameter, as_scalar

TILE = 1 << 20
"""Elements per call: what has to be copied for the kernel is copied by so many."""
GPU_TILE = 1 << 24
"""Elements per operator of what PyTorch's kernel does not do, on a GPU, which must be filled."""


def init(p: Tensor) -> dict[str, Tensor]:
    """Return fresh moments, in float32 for parameters of less precision."""
    dtype = torch.promote_types(p.dtype, torch.float32)
    return {
        "exp_avg": torch.zeros_like(p, dtype=dtype, memory_format=torch.contiguous_format),
        "exp_avg_sq": torch.zeros_like(p, dtype=dtype, memory_format=torch.contiguous_format),
    }


class AdamWInputs(NamedTuple):
    """A parameter to be updated in place; nothing changes where `finite` (0-d bool) is False."""

    p: Tensor
    g: Tensor
    state: dict[str, Tensor]
    finite: Tensor
    group: dict[str, Any]

    @classmethod
    def of(cls, parameter: Parameter, flags: Check) -> AdamWInputs:
        """Return what updates a parameter; a gradient that is on no rank is skipped as well."""
        p, g, state, group, *_ = parameter
        g = torch.zeros_like(p) if g is None else g
        return cls(p, g, state, flags.present & flags.finite, group)


class _Block(NamedTuple):
    p: Tensor
    g: Tensor
    first: Tensor
    second: Tensor
    count: Tensor
    finite: Tensor


def update_all(inputs: Iterable[AdamWInputs]) -> None:
    """Update each parameter; those of one group follow each other."""
    # One call of the kernel takes one set of numbers, so groups are not mixed.
    for _, of_group in itertools.groupby(inputs, key=lambda each: id(each.group)):
        together = list(of_group)
        for batch in _batches(together):
            _update_batch(batch, together[0].group)


def _batches(inputs: Sequence[AdamWInputs]) -> Iterator[list[_Block]]:
    """Yield what one call of the kernel takes; a call skips all or nothing.

    On a CPU, where flags can be read, that is as many blocks as make a tile, without those to be
    skipped. Elsewhere it is one block.
    """
    batch: list[_Block] = []
    for each in inputs:
        readable = needs_no_sync(each.finite)
        if readable and not each.finite.numpy():
            # On a CPU nothing is read or written for a gradient that is skipped.
            continue
        for block in _blocks(each):
            if batch and not (readable and _may_join(block, batch)):
                yield batch
                batch = []
            batch.append(block)
    if batch:
        yield batch


def _may_join(block: _Block, batch: Sequence[_Block]) -> bool:
    """Return whether a block may be updated together with a batch.

    Not if the batch would exceed one tile, needs a device sync, or two blocks share storage (the
    second copy back would overwrite the first).
    """
    elements = block.p.numel()
    for other in batch:
        elements += other.p.numel()
        if other.p.data_ptr() == block.p.data_ptr():
            return False
    return needs_no_sync(batch[0].finite) and elements <= TILE


def _blocks(inputs: AdamWInputs) -> Iterator[_Block]:
    """Yield the parameter whole if the kernel takes it as it is, else in blocks of rows."""
    state = inputs.state
    # `atleast_1d` is a view: a scalar parameter is one row of its own storage.
    p, g = torch.atleast_1d(inputs.p, inputs.g)
    first, second = torch.atleast_1d(state["exp_avg"], state["exp_avg_sq"])
    # Rows at a time where they are copied, so that the copies of a large embedding in bfloat16, 8
    # bytes per element, are those of one tile.
    rows = len(p)
    if p.numel() and not (_as_it_is(p, first) and _as_it_is(g, first)):
        rows = max(1, TILE * len(p) // p.numel())
    # The kernel counts the step: of one block in the state itself, of the others in copies.
    count, before = state["step"], state["step"].clone()
    splits = p.split(rows), g.split(rows), first.split(rows), second.split(rows)
    for parts in zip(*splits, strict=True):
        yield _Block(*parts, count=count, finite=inputs.finite)
        count = before.clone()


def _as_it_is(x: Tensor, moment: Tensor) -> bool:
    """Return whether the kernel takes x beside that moment without a copy."""
    return x.dtype == moment.dtype and x.is_contiguous()


def _update_batch(batch: Sequence[_Block], group: dict[str, Any]) -> None:
    """Call the fused kernel, the one of PyTorch's that can be told, on the device, to skip a step.

    It walks through memory regardless of strides, so everything it gets is contiguous.
    """
    lr, weight_decay = scaled(group)
    # Copies, where parameter or gradient are of another dtype or layout than the moments; elsewhere
    # both calls return the tensor itself.
    p, g = [], []
    for block in batch:
        p.append(block.p.to(block.first.dtype).contiguous())
        g.append(block.g.to(block.first.dtype).contiguous())
    own, _, first, second, count, finite = map(list, zip(*batch, strict=True))
    if group.get("cautious", 0.0) and weight_decay:
        _decay_cautiously(batch, p, g, group)
        weight_decay = 0.0
    adamw(
        p,
        g,
        first,
        second,
        [],
        count,
        fused=True,
        # On a GPU the kernel reads the flag itself and then leaves everything as it is.
        found_inf=(~finite[0]).to(torch.float32),
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=lr,
        weight_decay=weight_decay,
        eps=group["eps"],
        maximize=False,
    )
    # What was copied goes back, rounded to the dtype of the parameter.
    for x, place in zip(p, own, strict=True):
        if x is not place:
            place.copy_(x)


def _decay_cautiously(
    batch: Sequence[_Block], parameters: Sequence[Tensor], gradients: Sequence[Tensor], group: Any
) -> None:
    """Subtract the weight decay, but only a part of it where the step moves a weight from zero.

    The step has the sign of the first moment, which the kernel is about to advance by the gradient.
    """
    lr, weight_decay = scaled(group)
    for block, p, g in zip(batch, parameters, gradients, strict=True):
        fraction = as_scalar(lr * weight_decay, p.device, p.dtype)
        kept = as_scalar(1.0 - group["cautious"], p.device, p.dtype) * fraction
        # A tile at a time, for the temporaries: three of the size of the parameter otherwise.
        size = TILE if p.is_cpu else GPU_TILE
        tiles = (x.view(-1).split(size) for x in (p, g, block.first))
        for x, gradient, first in zip(*tiles, strict=True):
            moment = torch.lerp(first, gradient, 1 - group["betas"][0])
            decay = torch.where(torch.sign(moment) * x < 0, kept, fraction) * x
            x.sub_(torch.where(block.finite, decay, 0.0))


def needs_no_sync(flag: Tensor) -> bool:
    """Return whether reading a flag, by `flag.numpy()`, needs no device synchronization."""
    return type(flag) is Tensor and flag.is_cpu
