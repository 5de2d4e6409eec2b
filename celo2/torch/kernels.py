"""The entry-by-entry work of a step: four passes over matrices (..., m, n) in the order in which they lie in memory.

The formulas are those of `celo2.rule`, cut where a number depends on the whole matrix. A kernel does not know which side is
fan-in: what is constant along a side comes as (..., m, 1) and (..., 1, n). It sees a block of rows that fits the cache;
`Passes` goes through the blocks and adds up. Kernels run as they stand, or fused by inductor: C++ on a CPU, Triton on a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch.utils._pytree import tree_map_only

from celo2 import rule
from celo2.rule import Weights
from celo2.rule.spec import Spec
from celo2.torch.stochastic_rounding import Noise, keep

TILE = 1 << 16
"""Entries a block, eagerly: large enough that PyTorch shares the work of one out among threads, small enough for the cache."""
FUSED_TILE = {"cpu": 1 << 18, "cuda": 1 << 24}
"""The same for fused kernels, by device: what they keep for themselves still fits the cache, or a GPU is still filled."""


class Sums(NamedTuple):
    """What the first pass adds up; over a block of rows as over all of them."""

    by_row: Tensor
    """Squared gradients, floor included, along n: (..., m, 1)"""
    by_column: Tensor
    """The same along m: (..., 1, n)"""
    plain: Tensor
    """Squares of the channels of `rule.plain_channels`: (12, ..., 1, 1)"""
    magnitude: Tensor
    """Magnitudes of the momenta: (..., 1, 1)"""


class Entries(NamedTuple):
    """All that is known of each entry, (..., m, n); views of the state, the parameter and its gradient."""

    m: Sequence[Tensor]
    v: Tensor
    g: Tensor
    p: Tensor

    def of_rows(self, rows: slice) -> Entries:
        """A block of rows."""
        here = (..., rows, slice(None))
        return Entries([x[here] for x in self.m], self.v[here], self.g[here], self.p[here])


class Sides(NamedTuple):
    """An array that is constant along rows, (..., m, 1), and one that is constant along columns, (..., 1, n)."""

    row: Tensor
    column: Tensor

    def of_rows(self, rows: slice) -> Sides:
        """For a block of rows; small, so it is worth a copy that all blocks are laid out alike."""
        return Sides(self.row[..., rows, :].contiguous(), self.column.contiguous())


def accumulate(spec: Spec, entries: Entries, finite: Tensor, noise: Noise | None) -> Sums:
    """Advance M and V in place, where `finite`, and add up what the rest of the step needs of them."""
    m, v, g, p = read(spec, entries, finite)
    m, v = rule.moving_averages(spec, m, v, g)
    squares = [_sum(x * x) for x in rule.plain_channels(torch, spec, m, v, g, p)]
    magnitude = sum(_sum(x.abs()) for x in m)
    keep([*entries.m, entries.v], [*m, v], finite, noise)
    q = g * g + spec.factored_floor
    return Sums(q.sum(-1, keepdim=True), q.sum(-2, keepdim=True), torch.stack(squares), magnitude)  # type: ignore[arg-type]


def factored_squares(spec: Spec, entries: Entries, finite: Tensor, factors: Sides) -> Tensor:
    """Sums of the squares of the channels of `rule.factored_channels`, (6, ..., 1, 1)."""
    m, _, g, _ = read(spec, entries, finite)
    products = rule.factored_channels(torch, spec, m, factors, g)
    return torch.stack([_sum(x * x) for x in products])


def direction(
    spec: Spec, theta: Weights, layer: Tensor, hidden: Sides, factors: Sides, entries: Entries, finite: Tensor
) -> Tensor:
    """The MLP's output (..., m, n), by matrix products.

    `layer` is the first layer as far as it reads entries, (..., 18, hidden); `hidden` what its other weights make of the
    channels that are constant along a side, (..., hidden, m, 1) and (..., hidden, 1, n).
    """
    h = rule.first_layer(torch, layer, channels(spec, entries, finite, factors))
    return rule.later_layers(torch, theta, h + hidden.row + hidden.column)


def fused_direction(
    spec: Spec, theta: Weights, layer: Tensor, hidden: Sides, factors: Sides, entries: Entries, finite: Tensor
) -> Tensor:
    """`direction`, written entry by entry: nothing is stacked, so that an entry need not leave the registers."""
    x = channels(spec, entries, finite, factors)
    return rule.entrywise_direction(torch, theta, layer, hidden, x)


def move(p: Tensor, d: Tensor, size: Tensor, rate: Tensor, weight_decay: Tensor) -> None:
    """P <- p - rate (size d + weight_decay p), in the precision of d."""
    wide = p.to(d.dtype)
    p.copy_(wide - rate * (size * d + weight_decay * wide))


def channels(spec: Spec, entries: Entries, finite: Tensor, factors: Sides) -> list[Tensor]:
    """The channels that differ from entry to entry."""
    m, v, g, p = read(spec, entries, finite)
    plain = rule.plain_channels(torch, spec, m, v, g, p)
    return rule.in_order(spec, plain, rule.factored_channels(torch, spec, m, factors, g))


def read(spec: Spec, entries: Entries, finite: Tensor) -> Entries:
    """Entries in the working dtype, the gradient clamped, and zero where it is not finite."""
    work = working_dtype(entries.p, entries.v)
    g = entries.g.to(work).clamp(-spec.gradient_clip, spec.gradient_clip)
    return Entries([x.to(work) for x in entries.m], entries.v.to(work), torch.where(finite, g, 0), entries.p.to(work))


def working_dtype(p: Tensor, state: Tensor) -> torch.dtype:
    """What a step is computed in: float32, or float64 where parameter or state are."""
    return torch.promote_types(torch.promote_types(p.dtype, state.dtype), torch.float32)


def _sum(x: Tensor) -> Tensor:
    return x.sum(dim=-1, keepdim=True).sum(dim=-2, keepdim=True)


class Kernels(NamedTuple):
    """The four functions above, as they stand or fused."""

    accumulate: Callable[..., Sums] = accumulate
    factored_squares: Callable[..., Tensor] = factored_squares
    direction: Callable[..., Tensor] = direction
    move: Callable[..., None] = move


@functools.cache
def fused_kernels() -> Kernels:
    """The kernels by inductor. Sizes are dynamic and rates are tensors, so that neither compiles anew."""
    return Kernels(*map(_fused, (accumulate, factored_squares, fused_direction, move), Kernels()))


def _fused(f: Callable[..., Any], eager: Callable[..., Any]) -> Callable[..., Any]:
    kernel = torch.compile(f, fullgraph=True, dynamic=True)

    def call(*args: Any) -> Any:
        try:
            return kernel(*tree_map_only(Tensor, _bare, args))
        except FailOnRecompileLimitHit:  # a process with more kinds of parameters than PyTorch will compile one function for
            return eager(*args)

    return call


def _bare(x: Tensor) -> Tensor:
    """The same numbers without what would make the compiler take two tensors for different kinds.

    That is the base of a view, being a parameter, and strides of sides of length one.
    """
    return (x.reshape(-1).view(x.shape) if x.is_contiguous() and x.ndim > 1 else x).data


class Passes(NamedTuple):
    """Kernels, and how many entries they take at once."""

    kernels: Kernels
    tile: int
    fused: bool

    def accumulate(self, spec: Spec, entries: Entries, finite: Tensor, noise: Noise | None) -> Sums:
        """The first pass."""
        blocks = [
            self.kernels.accumulate(spec, entries.of_rows(rows), finite, noise and noise.of_rows(rows))
            for rows in self._blocks(entries.g)
        ]
        by_row, *others = zip(*blocks, strict=True)
        return Sums(torch.cat(by_row, -2), *(torch.stack(x).sum(0) for x in others))

    def factored_squares(self, spec: Spec, entries: Entries, finite: Tensor, factors: Sides) -> Tensor:
        """The second."""
        return torch.stack(
            [
                self.kernels.factored_squares(spec, entries.of_rows(rows), finite, factors.of_rows(rows))
                for rows in self._blocks(entries.g)
            ]
        ).sum(0)

    def direction(
        self, spec: Spec, theta: Weights, layer: Tensor, hidden: Sides, factors: Sides, entries: Entries, finite: Tensor
    ) -> Tensor:
        """The third."""
        d = torch.empty(entries.g.shape, dtype=theta.w0.dtype, device=entries.g.device)
        for rows in self._blocks(d):
            near = (hidden.of_rows(rows), factors.of_rows(rows), entries.of_rows(rows))
            d[..., rows, :] = self.kernels.direction(spec, theta, layer, *near, finite)
        return d

    def move(self, p: Tensor, d: Tensor, size: Tensor, rate: Tensor, weight_decay: Tensor) -> None:
        """The last."""
        for rows in self._blocks(p):
            here = (..., rows, slice(None))
            self.kernels.move(p[here], d[here], size, rate, weight_decay)

    def without_gaps(self, x: Tensor, batch: int, turned: bool) -> Tensor:
        """Matrices (..., *batch, a, b) as fused kernels want them, so that they exist for few layouts; a view where it can be.

        They have no gaps in memory and at most one axis of batch. Other kernels take them as they are.
        """
        if not self.fused:
            return x
        x = x.mT if turned else x
        x = x.flatten(-2 - batch, -3) if batch > 1 else x
        x = x if x.stride(-1) == 1 and x.stride(-2) == x.shape[-1] else x.contiguous()
        return x.mT if turned else x

    def _blocks(self, x: Tensor) -> Iterator[slice]:
        length = x.shape[-2]
        step = max(1, self.tile * length // max(1, x.numel()))
        return (slice(start, min(start + step, length)) for start in range(0, max(1, length), step))


def passes(fused: bool, device: torch.device) -> Passes:
    """The passes over parameters on a device."""
    return (
        Passes(fused_kernels(), FUSED_TILE.get(device.type, FUSED_TILE["cuda"]), True)
        if fused
        else Passes(Kernels(), TILE, False)
    )
