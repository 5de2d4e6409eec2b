"""What is looked up in gradients before a step: whether they are finite, and which are zero.

Nothing waits for the device: the flags are tensors, and whatever depends on them is masked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from celo2.torch.distributed import agree
from celo2.torch.layout import Layout

if TYPE_CHECKING:
    from celo2.torch.plan import Parameter


class Check(NamedTuple):
    """Flags of the gradient of one parameter, bool, the same on all ranks."""

    present: Tensor
    """Whether some rank has a gradient, 0-d."""
    finite: Tensor
    """Whether gradient and, under the rule, weights are finite on ranks with a gradient, 0-d."""
    active: list[Tensor]
    """Per layout, which matrices have a gradient other than zero, full: 0-d or (*batch, 1, 1)."""


def check(parameters: Sequence[Parameter]) -> list[Check]:
    """Check the gradients of a step, those of sharded parameters on all ranks together."""
    # 1. Read each local gradient once; its flags stay on its device.
    checks = list(map(_check_local, parameters))
    # 2. Combine the flags of sharded parameters, in one message per process group.
    sharded, groups, messages = [], [], []
    for i, parameter in enumerate(parameters):
        if parameter.shards is not None:
            sharded.append(i)
            groups.append(parameter.shards.group)
            messages.append(_message(checks[i]))
    for i, message in zip(sharded, agree(messages, groups), strict=True):
        checks[i] = _check_of(message, checks[i])
    return checks


def _message(check: Check) -> Tensor:
    """Return the flags of a parameter as they are sent, 1-d.

    Messages are combined by "and", so presence and activity, which any rank may contribute, travel
    negated.
    """
    flags = [~check.present[None], check.finite[None]]
    for active in check.active:
        flags.append(~active.reshape(-1))
    return torch.cat(flags)


def _check_of(message: Tensor, local: Check) -> Check:
    """Return the flags in a combined message, in the shapes of the local ones."""
    sizes = [active.numel() for active in local.active]
    absent, finite, *inactive = message.split([1, 1, *sizes])
    active = []
    for flags, own in zip(inactive, local.active, strict=True):
        active.append(~flags.view(own.shape))
    return Check(~absent[0], finite[0], active)


def _check_local(parameter: Parameter) -> Check:
    g, p, found = parameter.g, parameter.p, parameter.layouts
    true = torch.ones((), dtype=torch.bool, device=p.device)
    if g is None or not g.numel():
        nothing = [true.new_zeros(*layout.window.batch, 1, 1) for layout in found]
        return Check(true if g is not None else ~true, true, nothing)
    # The extremes are the cheapest to find, in one reading of the gradient (aminmax makes no copy),
    # and they propagate NaN and inf.
    extremes = torch.stack(torch.aminmax(g))
    finite = extremes.isfinite().all()
    if not found:
        return Check(true, finite, [])
    # One weight that is not finite would spread over its matrix, through the RMS of its channel, so
    # weights are read as well.
    finite = finite & torch.stack(torch.aminmax(p)).isfinite().all()
    if not parameter.group.get("skip_zero_gradients", True):
        return Check(true, finite, [true] * len(found))
    # A parameter that is one local matrix has its extremes already; others are read once more.
    if parameter.shards is None and len(found) == 1 and not found[0].window.batch:
        return Check(true, finite, [extremes.any()])
    return Check(true, finite, [_active(layout, g) for layout in found])


def _active(layout: Layout, g: Tensor) -> Tensor:
    """Return which matrices of a layout have a gradient other than zero, (*batch, 1, 1), full."""
    matrices, window = layout.of(g), layout.window
    axes = tuple(range(-len(window.rows) - len(window.columns), 0))
    if not matrices.numel():  # a block of which this rank has nothing
        return torch.zeros(*window.batch, 1, 1, dtype=torch.bool, device=g.device)
    largest = torch.linalg.vector_norm(matrices, math.inf, dim=axes)
    return window.place((largest > 0)[..., None, None])
