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
    checks = [_check_local(parameter) for parameter in parameters]
    sharded = [i for i, parameter in enumerate(parameters) if parameter.shards is not None]
    groups = [parameters[i].shards.group for i in sharded]  # type: ignore[union-attr]
    # One message per process group: flags that are combined by "and", so presence and activity,
    # which any rank may contribute, travel negated.
    messages = []
    for i in sharded:
        present, finite, active = checks[i]
        zero = [~x.reshape(-1) for x in active]
        messages.append(torch.cat([~present[None], finite[None], *zero]))
    for i, message in zip(sharded, agree(messages, groups), strict=True):
        sizes = [x.numel() for x in checks[i].active]
        absent, finite, *zero = message.split([1, 1, *sizes])
        active = [~x.view(old.shape) for x, old in zip(zero, checks[i].active, strict=True)]
        checks[i] = Check(~absent[0], finite[0], active)
    return checks


def _check_local(parameter: Parameter) -> Check:
    g, p, found = parameter.g, parameter.p, parameter.layouts
    true = torch.ones((), dtype=torch.bool, device=p.device)
    if g is None or not g.numel():
        nothing = [true.new_zeros(*layout.window.batch, 1, 1) for layout in found]
        return Check(true if g is not None else ~true, true, nothing)
    # The extremes are the cheapest to find, and propagate NaN and inf.
    extremes = torch.stack(torch.aminmax(g))
    finite = extremes.isfinite().all()
    if not found:
        return Check(true, finite, [])
    # One weight that is not finite would spread over its matrix, through the RMS of its channel.
    finite = finite & torch.stack(torch.aminmax(p)).isfinite().all()
    if not parameter.group.get("skip_zero_gradients", True):
        return Check(true, finite, [true] * len(found))
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
