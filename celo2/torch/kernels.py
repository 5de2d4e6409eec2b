"""The element-wise work of a step: kernels over matrices (..., m, n) in memory order.

The formulas are those of `celo2.rule`, cut where a number depends on the whole matrix. A kernel
does not know which side is fan-in: what is constant along a side comes as (..., m, 1) and
(..., 1, n). It sees a block of rows that fits the cache; `Kernels` loops over the blocks and adds
up. Kernels run eagerly, or fused by inductor: C++ on a CPU, Triton on a GPU.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from celo2 import rule
from celo2.errors import InputError
from celo2.rule import Spec, Weights
from celo2.torch.compat import RecompileLimitError, has_cpp_compiler, mark_dynamic, tree_map_only
from celo2.torch.stochastic_rounding import Noise, store


@dataclasses.dataclass(frozen=True)
class Limits:
    """Sizes, in elements, by which a step is divided: they change its speed, not its result."""

    tile: int = 1 << 16
    """Per block of an eager kernel: enough for PyTorch's threads, few enough for the cache."""
    fused_tile: int = 1 << 18
    """The same for fused kernels on a CPU, whose temporaries are smaller."""
    gpu_tile: int = 1 << 24
    """The same for fused kernels on a GPU, which must be filled."""
    stack: int = 1 << 18
    """Per stack of small matrices, unless a tile is smaller still."""
    members: int = 4
    """A matrix is small if this many fit into a stack; copies of larger ones cost more than the
    operators that a stack saves (measured)."""
    compile_from: int = 1 << 22
    """Parameters under the rule from which compiling pays by default: it saves about 50 ns per
    element and step, so its half minute is regained in 150 steps."""


class Sums(NamedTuple):
    """What the first kernel adds up, over a block of rows as over all of them."""

    by_row: Tensor
    """Squared gradients, floor included, along n: (..., m, 1)."""
    by_column: Tensor
    """The same along m: (..., 1, n)."""
    plain: Tensor
    """Squares of the channels of `rule.plain_channels`: (channels, ..., 1, 1)."""
    magnitude: Tensor
    """Magnitudes of the momenta: (momenta, ..., 1, 1)."""


class Entries(NamedTuple):
    """All that is known per element, (..., m, n): views of state, parameter and gradient."""

    averages: Sequence[Tensor]
    g: Tensor
    p: Tensor
    active: Tensor
    """Whether each matrix has a gradient that counts, bool, 0-d or (..., 1, 1)."""

    def of_rows(self, rows: slice) -> Entries:
        """Return a block of rows."""
        # Views: a kernel reads and writes the state itself.
        here = (..., rows, slice(None))
        averages = [x[here] for x in self.averages]
        return Entries(averages, self.g[here], self.p[here], self.active)


class Sides(NamedTuple):
    """An array that is constant along rows and one that is constant along columns; None: absent."""

    row: Tensor | None
    """(..., m, 1)"""
    column: Tensor | None
    """(..., 1, n)"""

    def of_rows(self, rows: slice) -> Sides:
        """Return a block of rows, copied (it is small) so that all have one memory layout."""
        row = None if self.row is None else self.row[..., rows, :].contiguous()
        return Sides(row, None if self.column is None else self.column.contiguous())

    def present(self) -> list[Any]:
        """Return those that there are: both for matrices, one or none for vectors."""
        return [side for side in self if side is not None]


class DirectionInputs(NamedTuple):
    """What the MLP needs beside the elements."""

    layer: Tensor
    """The folded first layer of the channels of elements, (..., channels, hidden)."""
    hidden: Sides
    """Products of the first layer with the channels of sides, (..., hidden, m or 1, n or 1)."""
    factors: Sides
    """Arrays whose product is F_i, (k, ..., m or 1, n or 1)."""

    def of_rows(self, rows: slice) -> DirectionInputs:
        """Return the inputs of a block of rows."""
        return DirectionInputs(self.layer, self.hidden.of_rows(rows), self.factors.of_rows(rows))


def accumulate(spec: Spec, entries: Entries, noise: Noise | None) -> Sums:
    """Advance the averages in place, where active, and add up what the step needs of them."""
    # Everything the step needs of the new statistics is added up while they are in the cache; the
    # sums over full matrices follow outside, where other blocks and ranks are known.
    averages, g, p, active = read(spec, entries)
    averages = rule.moving_averages(spec, averages, g)
    m, v = rule.split_averages(spec, averages)
    squares = _squares(rule.plain_channels(torch, spec, m, v, g, p), g)
    magnitude = torch.stack([_sum(x.abs()) for x in m])
    # In place: with three momenta and V in float32, 16 bytes per element are read and 16 written,
    # beside the 8 of gradient and parameter.
    store(entries.averages, averages, active, noise)
    # R and C need the squares along either side; q itself stays a temporary of a block.
    q = g * g + spec.factored_floor
    by_row, by_column = q.sum(-1, keepdim=True), q.sum(-2, keepdim=True)
    return Sums(by_row, by_column, squares, magnitude)


def factored_squares(spec: Spec, entries: Entries, factors: Sides) -> Tensor:
    """Return the sums of the squares of `rule.factored_channels`, (channels, ..., 1, 1)."""
    # The channels are recomputed by `direction`: keeping them would need memory of several times
    # the size of the parameter.
    averages, g, _, _ = read(spec, entries)
    m, _ = rule.split_averages(spec, averages)
    return _squares(rule.factored_channels(torch, spec, m, factors.present(), g), g)


def direction(spec: Spec, theta: Weights, entries: Entries, inputs: DirectionInputs) -> Tensor:
    """Return the MLP's output (..., m, n), by matrix products."""
    # The hidden units of a block are its largest temporary; that is what bounds a tile.
    h = rule.first_layer(torch, inputs.layer, entry_channels(spec, entries, inputs.factors))
    # Channels of a side contribute one product per row or column, which broadcasts.
    for side in inputs.hidden.present():
        h = h + side
    return rule.later_layers(torch, theta, h)


def fused_direction(
    spec: Spec, theta: Weights, entries: Entries, inputs: DirectionInputs
) -> Tensor:
    """Return `direction`, written element by element: inductor keeps each in registers."""
    # No hidden unit reaches memory: 24 bytes per element are read and 4 written.
    channels = entry_channels(spec, entries, inputs.factors)
    return rule.entrywise_direction(torch, theta, inputs.layer, inputs.hidden.present(), channels)


class Numbers(NamedTuple):
    """The numbers of a group that the last kernel reads, 0-d tensors."""

    lr: Tensor
    weight_decay: Tensor
    """As a fraction of the parameter per unit of `lr`."""
    kept: Tensor | None
    """Part of the weight decay where the step moves a weight away from zero; None: all of it."""


def apply(p: Tensor, d: Tensor, scale: Tensor, numbers: Numbers, finite: Tensor) -> None:
    """Set p <- p - lr (scale d + weight_decay p) where `finite`, in the precision of d.

    With `numbers.kept`, less of the decay where the step moves a weight away from zero.
    """
    # bfloat16 parameters are widened a block at a time, and rounded once when they are stored.
    wide = p.to(d.dtype)
    p.copy_(torch.where(finite, _moved(wide, scale * d, numbers), wide))


def _moved(p: Tensor, step: Tensor, numbers: Numbers) -> Tensor:
    """Return the parameter after a step and its weight decay."""
    lr, weight_decay, kept = numbers
    decaying = p if kept is None else torch.where(torch.sign(step) * p < 0, kept * p, p)
    return p - lr * (step + weight_decay * decaying)


def products(m: Tensor, d: Tensor, magnitude: Tensor) -> Tensor:
    """Return the sums of `rule.products`, (3, ..., 1, 1), in the precision of d."""
    return torch.stack(rule.products(torch, m.to(d.dtype), d, magnitude))


def apply_guarded(
    p: Tensor,
    d: Tensor,
    m: Tensor,
    scales: tuple[Tensor, Tensor],
    numbers: Numbers,
    finite: Tensor,
) -> None:
    """Run `apply` with scales[0] d + scales[1] m in the place of scale d.

    d may hold anything where its scale is 0.
    """
    wide = p.to(d.dtype)
    step = torch.where(scales[0] > 0, scales[0] * d, 0) + scales[1] * m.to(d.dtype)
    p.copy_(torch.where(finite, _moved(wide, step, numbers), wide))


def entry_channels(spec: Spec, entries: Entries, factors: Sides) -> list[Tensor]:
    """Return the channels that differ per element, in the order of the spec."""
    averages, g, p, _ = read(spec, entries)
    m, v = rule.split_averages(spec, averages)
    plain = rule.plain_channels(torch, spec, m, v, g, p)
    return rule.in_order(spec, plain, rule.factored_channels(torch, spec, m, factors.present(), g))


def read(spec: Spec, entries: Entries) -> Entries:
    """Return the entries in the working dtype, the gradient clamped, and zero where not active."""
    averages, g, p, active = entries
    work = working_dtype(p, averages[0])
    # `to` copies nothing where the dtype is right already, else a block.
    g = g.to(work).clamp(-spec.gradient_clip, spec.gradient_clip)
    g = torch.where(active, g, 0)
    return Entries([x.to(work) for x in averages], g, p.to(work), active)


def working_dtype(p: Tensor, state: Tensor) -> torch.dtype:
    """Return what a step is computed in: float32, or float64 where parameter or state are."""
    return torch.promote_types(torch.promote_types(p.dtype, state.dtype), torch.float32)


def _squares(channels: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the sums of squares (channels, ..., 1, 1) of channels like (..., m, n)."""
    sums = [_sum(x * x) for x in channels]
    return torch.stack(sums) if sums else like.new_zeros(0, *like.shape[:-2], 1, 1)


def _sum(x: Tensor) -> Tensor:
    return x.sum(dim=-1, keepdim=True).sum(dim=-2, keepdim=True)


def _added(blocks: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(blocks)).sum(0)


class Functions(NamedTuple):
    """The functions above, eager or fused."""

    accumulate: Callable[..., Sums] = accumulate
    factored_squares: Callable[..., Tensor] = factored_squares
    direction: Callable[..., Tensor] = direction
    apply: Callable[..., None] = apply
    products: Callable[..., Tensor] = products
    apply_guarded: Callable[..., None] = apply_guarded


@functools.cache
def fused_functions() -> Functions:
    """Return the functions compiled by inductor, for any sizes and numbers."""
    eager = Functions()
    return Functions._make(map(_fused, eager._replace(direction=fused_direction), eager))


def _fused(f: Callable[..., Any], eager: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(f, fullgraph=True, dynamic=True)

    def call(*args: Any) -> Any:
        try:
            return compiled(*tree_map_only(Tensor, _bare, args))
        except RecompileLimitError:
            # There are more kinds of parameters than PyTorch compiles a function for.
            return eager(*args)

    return call


def _bare(x: Tensor) -> Tensor:
    """Strip what Dynamo guards on beside the numbers; else each layout triggers a recompile.

    That is the base of a view, being a Parameter, and the strides of axes of length one.
    """
    # Views of the same memory, so kernels still write in place.
    bare = x.reshape(-1).view(x.shape) if x.is_contiguous() and x.ndim > 1 else x
    return mark_dynamic(bare.data)


class Kernels(NamedTuple):
    """The functions, applied to a block of rows at a time."""

    functions: Functions
    tile: int
    """Elements per block."""
    fused: bool

    def accumulate(self, spec: Spec, entries: Entries, noise: Noise | None) -> Sums:
        """Run the first kernel."""
        # Blocks run one after the other and share their temporaries' memory; PyTorch's threads
        # work inside each.
        blocks = []
        for rows in self._blocks(entries.g):
            random = None if noise is None else noise.of_rows(rows)
            blocks.append(self.functions.accumulate(spec, entries.of_rows(rows), random))
        # Sums along rows belong to the rows of a block; all others add up over the blocks.
        by_row, *others = zip(*blocks, strict=True)
        return Sums(torch.cat(by_row, -2), *map(_added, others))

    def factored_squares(self, spec: Spec, entries: Entries, factors: Sides) -> Tensor:
        """Run the second kernel."""
        blocks = []
        for rows in self._blocks(entries.g):
            here = entries.of_rows(rows), factors.of_rows(rows)
            blocks.append(self.functions.factored_squares(spec, *here))
        return _added(blocks)

    def direction(
        self, spec: Spec, theta: Weights, entries: Entries, inputs: DirectionInputs
    ) -> Tensor:
        """Run the third kernel."""
        # The one temporary of the size of the matrices: Newton-Schulz needs all of a matrix before
        # any of it can be subtracted. Chunks of large parameters keep it to a matrix at a time.
        d = torch.empty(entries.g.shape, dtype=theta.w0.dtype, device=entries.g.device)
        for rows in self._blocks(d):
            here = entries.of_rows(rows), inputs.of_rows(rows)
            d[..., rows, :] = self.functions.direction(spec, theta, *here)
        return d

    def products(self, m: Tensor, d: Tensor, magnitude: Tensor) -> Tensor:
        """Run the guard's kernel."""
        blocks = []
        for rows in self._blocks(d):
            here = (..., rows, slice(None))
            blocks.append(self.functions.products(m[here], d[here], magnitude))
        return blocks[0] if len(blocks) == 1 else torch.stack(blocks).sum(0)

    def apply(self, p: Tensor, d: Tensor, scale: Tensor, numbers: Numbers, finite: Tensor) -> None:
        """Run the last kernel."""
        # 12 bytes per element move in float32: p and d are read, p is written.
        for rows in self._blocks(p):
            here = (..., rows, slice(None))
            self.functions.apply(p[here], d[here], scale, numbers, finite)

    def apply_guarded(
        self,
        p: Tensor,
        d: Tensor,
        m: Tensor,
        scales: tuple[Tensor, Tensor],
        numbers: Numbers,
        finite: Tensor,
    ) -> None:
        """Run the last kernel of guarded updates."""
        for rows in self._blocks(p):
            here = (..., rows, slice(None))
            self.functions.apply_guarded(p[here], d[here], m[here], scales, numbers, finite)

    def _blocks(self, x: Tensor) -> Iterator[slice]:
        # Rows are adjacent in memory, so a block of them is contiguous for a single matrix.
        length = x.shape[-2]
        rows = max(1, self.tile * length // max(1, x.numel()))
        for start in range(0, max(1, length), rows):
            yield slice(start, min(start + rows, length))


def kernels_for(device: torch.device, fused: bool, limits: Limits) -> Kernels:
    """Return the kernels for parameters on a device."""
    if not fused:
        return Kernels(Functions(), limits.tile, False)
    tile = limits.fused_tile if device.type == "cpu" else limits.gpu_tile
    return Kernels(fused_functions(), tile, True)


def has_compiler(device: torch.device) -> bool:
    """Return whether kernels for a device can be compiled: on a CPU that takes a C++ compiler."""
    return device.type != "cpu" or has_cpp_compiler()


def check_compiler(device: torch.device) -> None:
    """Raise InputError if the user asked for compiled kernels and this machine cannot make them."""
    if not has_compiler(device):
        raise InputError(
            "compile=True needs a C++ compiler, and none was found; "
            "install g++, set CXX, or leave compile out"
        )
