"""The plan of a step: which matrices there are, and which of them are updated together.

`Planner.batches` applies the layouts of a parameter to its tensors; `buckets` decides which batches
share operators or messages. Only views are made here: no element is read, copied or sent.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from celo2.parameters.routing import ADAMW
from celo2.rule import Accumulators, Spec, Weights
from celo2.theta import Theta
from celo2.torch import distributed
from celo2.torch.distributed import LOCAL, Exchange, Sharded, Shards
from celo2.torch.gradients import Check
from celo2.torch.hyper_parameters import scaled
from celo2.torch.kernels import Kernels, Limits, Numbers, kernels_for, working_dtype
from celo2.torch.layout import Layout, Window, layouts
from celo2.torch.newton_schulz import orthogonalize as newton_schulz
from celo2.torch.param_groups import matrix_axes


class Parameter(NamedTuple):
    """A parameter of one step: what of it is local, and how its group and its ranks read it."""

    p: Tensor
    g: Tensor | None
    """The gradient; None only for sharded parameters, of which other ranks may have one."""
    state: dict[str, Tensor]
    group: dict[str, Any]
    shards: Shards | None
    layouts: tuple[Layout, ...]
    """Its matrices; none under AdamW."""


def read(
    p: Tensor, state: dict[str, Any], group: dict[str, Any], shards: Shards | None
) -> Parameter:
    """Return a parameter as a step reads it."""
    found: tuple[Layout, ...] = ()
    if group["rule"] != ADAMW:
        sharding = None if shards is None else shards.sharding
        found = layouts(tuple(p.shape), p.stride(), matrix_axes(p, group), sharding)
    # Local parts are views of the shards; only a gradient of partial sums would be copied and
    # communicated here.
    own = {key: distributed.local(value) for key, value in state.items()}
    return Parameter(distributed.local(p), distributed.gradient(p), own, group, shards, found)


class GroupNumbers:
    """Learning rate and weight decay as 0-d tensors, once per group, device, dtype and step."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Numbers] = {}

    def of(self, group: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Numbers:
        """Return the numbers of a group, the same objects throughout a step."""
        key = id(group), device, dtype
        # The same objects for all parameters of a group: stacks are made of what shares them.
        if key not in self._made:
            lr, weight_decay = scaled(group)
            cautious = group.get("cautious", 0.0)
            kept = as_scalar(1.0 - cautious, device, dtype) if cautious else None
            self._made[key] = Numbers(
                as_scalar(lr, device, dtype), as_scalar(weight_decay, device, dtype), kept
            )
        return self._made[key]


def as_scalar(x: float | Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a number as a 0-d tensor, filled in: a copy would sync, and break CUDA graphs."""
    if isinstance(x, Tensor):
        return x.to(device, dtype)
    return torch.full((), x, dtype=dtype, device=device)


class Guard:
    """The guard of the updates of one rule, and how often it has acted."""

    def __init__(self, kappa: float, device: torch.device) -> None:
        self.kappa = kappa
        self.pushed = torch.zeros((), dtype=torch.int64, device=device)
        """Updates of matrices that were pushed."""
        self.updates = 0
        """Updates of matrices."""

    def count(self, pushed: Tensor) -> None:
        """Count updates of matrices, of which `pushed` (bool) were pushed; nothing waits."""
        self.pushed += pushed.sum()
        self.updates += pushed.numel()


class UpdateRule(NamedTuple):
    """The rule for matrices of one dtype on one device."""

    spec: Spec
    theta: Weights
    """Tensors of the working dtype: float32, or float64 for float64 parameters."""
    kernels: Kernels
    orthogonalize: Callable[[Spec, Tensor], Tensor] | None
    guard: Guard | None


class StepInputs(NamedTuple):
    """What a step needs beside the matrices and their state."""

    finite: Tensor
    """Bool, 0-d or (..., 1, 1): where it is False nothing changes."""
    active: Tensor
    """Bool, 0-d or (*batch, 1, 1), full: where it is False only weight decay applies."""
    step: Tensor
    """Steps so far, 0-d or (..., 1, 1): stochastic rounding depends on them."""
    numbers: Numbers
    """Of the group: the same object for all its parameters of one device and dtype."""


class MatrixBatch(NamedTuple):
    """Local matrices of one parameter, or packed ones of several, with all that updates them.

    As planned, tensors are views whose sides are not merged: (..., *batch, *rows, *columns); packed
    (see `celo2.torch.update.pack`) they are (..., *batch, a, b).
    """

    rule: UpdateRule
    exchange: Exchange
    window: Window
    accumulators: Accumulators
    """M, V and, full, R and C."""
    g: Tensor
    """The gradient; never written."""
    p: Tensor
    inputs: StepInputs

    @property
    def matrices(self) -> int:
        """Number of axes of the batch."""
        return len(self.window.batch)


class Planner:
    """Makes the batches of parameters; keeps the rule as tensors, per dtype and device."""

    def __init__(self, theta: Theta, compiled: bool, limits: Limits) -> None:
        self._theta = theta
        self._compiled = compiled
        self.limits = limits
        self._rules: dict[Hashable, UpdateRule] = {}

    def batches(
        self, parameter: Parameter, check: Check, of_groups: GroupNumbers
    ) -> Iterator[MatrixBatch]:
        """Yield the batches of a parameter under the rule, and count its step."""
        group, state, step = parameter.group, parameter.state, parameter.state["step"]
        finite = check.present & check.finite
        # Counted on the device, without waiting for the flag.
        step += finite
        # A rank without a gradient joins the messages of those that have one, with zeros.
        g = torch.zeros_like(parameter.p) if parameter.g is None else parameter.g
        dtype = torch.promote_types(parameter.p.dtype, torch.float32)
        numbers = of_groups.of(group, parameter.p.device, dtype)
        exchange = LOCAL if parameter.shards is None else Sharded(parameter.shards.group)
        for layout, active in zip(parameter.layouts, check.active, strict=True):
            p, accumulators = layout.of(parameter.p), layout.accumulators(state)
            rule = self._rule(layout, p, accumulators, group)
            inputs = StepInputs(finite, finite & active, step, numbers)
            yield MatrixBatch(rule, exchange, layout.window, accumulators, layout.of(g), p, inputs)

    def _rule(
        self, layout: Layout, p: Tensor, accumulators: Accumulators, group: dict[str, Any]
    ) -> UpdateRule:
        window = layout.window
        rows = p.shape[-len(window.rows) - len(window.columns) : -len(window.columns)]
        shortest = min(rows.numel(), p.shape[-len(window.columns) :].numel())
        # Sides of length one, or none, would need compiled kernels of their own; so would shards of
        # batches, which are not copied to one batch axis.
        fused = self._compiled and shortest > 1 and (window.axis is None or not window.batch)
        orthogonalized = group["orthogonalize"] and not layout.view.is_vector
        precision = group["newton_schulz_dtype"] if orthogonalized else None
        kappa = group["guard"]
        key = working_dtype(p, accumulators.averages), p.device, fused, precision, kappa
        # Theta is copied to each device once, a few kilobytes, and kept for all later steps.
        if key not in self._rules:
            weights = [torch.tensor(x, dtype=key[0], device=p.device) for x in self._theta.weights]
            half = torch.bfloat16 if precision == torch.bfloat16 else None
            orthogonalize = functools.partial(newton_schulz, dtype=half) if precision else None
            kernels = kernels_for(p.device, fused, self.limits)
            guard = None if kappa is None else Guard(kappa, p.device)
            self._rules[key] = UpdateRule(
                self._theta.spec, Weights(*weights), kernels, orthogonalize, guard
            )
        return self._rules[key]

    def guards(self) -> list[Guard]:
        """Return the guards of all rules so far."""
        return [rule.guard for rule in self._rules.values() if rule.guard is not None]


class Bucket(NamedTuple):
    """Batches that are updated together."""

    stacks: list[list[MatrixBatch]]
    """Batches of one stack share operators; stacks share messages."""
    exchange: Exchange


def buckets(batches: Iterable[MatrixBatch], limits: Limits) -> Iterator[Bucket]:
    """Divide the batches of a step into buckets.

    Large local matrices come first and one by one, so that only one needs temporaries at a time.
    Small ones of equal shape, layout and numbers are stacked: what they cost is the number of
    operators. Sharded ones of equal shape share their messages; every rank makes the same buckets.
    """
    small: dict[Hashable, list[MatrixBatch]] = defaultdict(list)
    sharded: dict[Hashable, list[MatrixBatch]] = defaultdict(list)
    for batch in batches:
        if batch.window.axis is not None:
            sharded[exchange_key(batch)].append(batch)
        elif is_small(batch, limits):
            small[stack_key(batch)].append(batch)
        else:
            # Yielded, not collected: the temporaries of one are freed before the next is made.
            for chunk in chunks(batch):
                yield Bucket([[chunk]], chunk.exchange)
    # What waits here are views; a stack is copied when its bucket is updated.
    for alike in small.values():
        for stack in _stacks(alike, limits):
            yield Bucket([stack], stack[0].exchange)
    # All of one shape at once, because latency counts more than their temporaries: local shards
    # are small, and each all-to-all gives every rank matrices to work on at the same time.
    for alike in sharded.values():
        yield Bucket([[batch] for batch in alike], alike[0].exchange)


def is_small(batch: MatrixBatch, limits: Limits) -> bool:
    """Return whether matrices are worth stacking."""
    return batch.p.numel() * limits.members <= min(limits.stack, batch.rule.kernels.tile)


def stack_key(batch: MatrixBatch) -> Hashable:
    """Return what matrices of a stack have in common; rules and numbers are the same objects."""
    tensors = batch.p, batch.g, batch.accumulators.averages
    # By the order of strides, matrices that are stored transposed lie in stacks of their own.
    order = sorted(range(batch.p.ndim), key=lambda axis: -batch.p.stride(axis))
    shape = batch.window, len(batch.accumulators.factored), tuple(order), batch.p.device
    numbers = id(batch.rule), id(batch.inputs.numbers)
    return shape, tuple(x.dtype for x in tensors), numbers


def exchange_key(batch: MatrixBatch) -> Hashable:
    """Return what sharded matrices that share their messages have in common, on all ranks."""
    # Nothing here may depend on the rank, neither local shapes nor strides, or ranks would
    # make different buckets and wait for each other forever.
    window = batch.window
    sides = window.rows, window.columns
    orthogonalized = batch.rule.orthogonalize is not None
    kappa = None if batch.rule.guard is None else batch.rule.guard.kappa
    return sides, window.axis, batch.rule.theta.w0.dtype, orthogonalized, kappa, batch.exchange


def _stacks(alike: Sequence[MatrixBatch], limits: Limits) -> Iterator[list[MatrixBatch]]:
    count = min(limits.stack, alike[0].rule.kernels.tile) // alike[0].p.numel()
    if len({batch.p.data_ptr() for batch in alike}) < len(alike):
        # Both would be copied out of their storage, and the second one back over the first.
        count = 1
    for start in range(0, len(alike), count):
        yield list(alike[start : start + count])


def chunks(batch: MatrixBatch) -> Iterator[MatrixBatch]:
    """Divide a large batch into parts of about a tile, or of one matrix each."""
    accumulators, active = batch.accumulators, batch.inputs.active
    for here in _indices(batch.p.shape[: batch.matrices], batch.p.numel(), batch.rule.kernels.tile):
        if not here:
            yield batch
            continue
        # Indexing by slices and integers makes views, so the state is still written in place.
        factored = tuple(f[:, *here] for f in accumulators.factored)
        averages = accumulators.averages[:, *here]
        rest = averages.shape[1 : batch.matrices - batch.p.ndim + averages.ndim]
        yield batch._replace(
            window=batch.window._replace(batch=tuple(rest)),
            accumulators=Accumulators(averages, factored),
            g=batch.g[here],
            p=batch.p[here],
            inputs=batch.inputs._replace(active=active[here] if active.ndim else active),
        )


def _indices(batch: Sequence[int], elements: int, limit: int) -> Iterator[tuple[slice | int, ...]]:
    """Yield indices of the parts of axes `batch` that hold about `limit` of the `elements` each."""
    if not batch or (elements <= limit and math.prod(batch) > 1):
        yield ()
        return
    count = max(1, limit * batch[0] // max(1, elements))
    for start in range(0, batch[0], count):
        stop = min(start + count, batch[0])
        if stop - start > 1:
            yield (slice(start, stop),)
        else:
            for rest in _indices(batch[1:], elements // batch[0], limit):
                yield (start, *rest)
