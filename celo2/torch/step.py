"""The rule applied to one PyTorch tensor, eagerly, in tiles, so that memory is bounded by the matrix and not by its channels.

A large batch goes through matrix by matrix, since each has the rule by itself. A large matrix is gone through three times:
gradients into the accumulators, squares of the channels into their normalisers, channels through the MLP. All formulas are
those of `celo2.rule`; a vector, and what fits one tile, takes `rule.update` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from celo2 import rule
from celo2.rule import Accumulators, Channels, Weights
from celo2.spec import Spec

TILE = 65536
"""Entries a tile: large enough that PyTorch shares the work of one out among threads, small enough for the cache."""

Orthogonalize = Callable[[Any, Spec, Tensor], Tensor]


def step(
    spec: Spec,
    theta: Weights,
    accumulators: Accumulators,
    g: Tensor,
    p: Tensor,
    finite: Tensor,
    orthogonalize: Orthogonalize | None,
) -> Tensor:
    """The step (..., a, b) of RMS 1 for a gradient; advances the accumulators in place, in their own dtype.

    Args:
        spec: constants of the rule.
        theta: its learned numbers, as tensors of the working dtype (float32, or float64 for float64 parameters).
        accumulators: views of the state, (..., a, b) with a <= b.
        g: gradient, same view; never written.
        p: parameter, same view.
        finite: 0-d bool tensor; where it is false nothing moves: neither the accumulators nor (step 0) the parameter.
        orthogonalize: Newton-Schulz, or None.
    """
    if g.ndim > 2 and g.numel() > TILE:
        u = torch.empty(g.shape, dtype=theta.w0.dtype, device=g.device)
        count = max(1, TILE * g.shape[0] // g.numel())
        for start in range(0, g.shape[0], count):
            here = start if count == 1 else slice(start, start + count)
            part = Accumulators(
                accumulators.momentum[:, here],
                accumulators.second_moment[here],
                tuple(f[:, here] for f in accumulators.factored),
            )
            u[here] = step(spec, theta, part, g[here], p[here], finite, orthogonalize)
        return u
    if g.numel() <= TILE or len(accumulators.factored) == 1:
        work = theta.w0.dtype
        g = torch.where(finite, g.to(work), 0)
        old = Accumulators(accumulators.momentum.to(work), accumulators.second_moment.to(work), accumulators.factored)
        u, new = rule.update(torch, spec, theta, old, g, p.to(work), orthogonalize)
        _keep(accumulators.momentum, new.momentum, finite)
        _keep(accumulators.second_moment, new.second_moment, finite)
        for state, value in zip(accumulators.factored, new.factored, strict=True):
            _keep(state, value, finite)
        return u.mul_(finite)
    return _tiled_step(spec, theta, accumulators, g, p, finite, orthogonalize)


def _tiled_step(
    spec: Spec,
    theta: Weights,
    accumulators: Accumulators,
    g: Tensor,
    p: Tensor,
    finite: Tensor,
    orthogonalize: Orthogonalize | None,
) -> Tensor:
    work = theta.w0.dtype
    tiles = list(_tiles(g))
    moved = _accumulate(spec, accumulators, g, finite, tiles, work)
    factors = rule.preconditioners(torch, spec, accumulators.factored)
    constant = rule.constant_channels(torch, spec, accumulators.factored)

    def entries(rows: slice, columns: slice) -> list[Tensor]:
        here = (..., rows, columns)
        tile = accumulators._replace(
            momentum=accumulators.momentum[here].to(work), second_moment=accumulators.second_moment[here].to(work)
        )
        near = (factors[0][..., rows, :], factors[1][..., columns])
        return rule.entry_channels(torch, spec, tile, near, _clamped(spec, g[here], finite, work), p[here].to(work))

    squares = torch.stack([_share(tile, g) * torch.stack(rule.mean_squares(torch, entries(*tile))) for tile in tiles]).sum(0)
    constant_squares = (rule.mean_squares(torch, kind) for kind in constant)
    layer = rule.fold(torch, spec, theta.w0, Channels(list(squares), *constant_squares))
    d = torch.empty(g.shape, dtype=work, device=g.device)
    for rows, columns in tiles:
        near = ([x[..., rows, :] for x in constant[0]], [x[..., columns] for x in constant[1]])
        d[..., rows, columns] = rule.direction(torch, theta, layer, Channels(entries(rows, columns), *near))
    if orthogonalize is not None:
        d = orthogonalize(torch, spec, d)
    norm = torch.linalg.vector_norm(d, dim=(-2, -1), keepdim=True)
    mean_square = norm * norm / (d.shape[-2] * d.shape[-1])
    return d.mul_(moved * finite / torch.sqrt(spec.normalize_epsilon + mean_square))


def _accumulate(
    spec: Spec, accumulators: Accumulators, g: Tensor, finite: Tensor, tiles: list[tuple[slice, slice]], work: torch.dtype
) -> Tensor:
    """Advance the accumulators in place; (..., 1, 1) whether each matrix ever saw a gradient."""
    momentum, second_moment, (r, c) = accumulators
    a, b = g.shape[-2:]
    row_means, column_means = torch.zeros_like(r[0]), torch.zeros_like(c[0])
    magnitude = torch.zeros_like(r[0, ..., :1, :])
    for rows, columns in tiles:
        here = (..., rows, columns)
        tile = _clamped(spec, g[here], finite, work)
        new = rule.accumulate_entries(torch, spec, momentum[here].to(work), second_moment[here].to(work), tile)
        _keep(momentum[here], new[0], finite)
        _keep(second_moment[here], new[1], finite)
        means = rule.factored_means(torch, spec, tile, vector=False)
        row_means[..., rows, :] += means[0] * (tile.shape[-1] / b)  # one tile may hold part of a row, or of a column
        column_means[..., columns] += means[1] * (tile.shape[-2] / a)
        magnitude += new[0].abs().sum(dim=(0, -2, -1), keepdim=True)[0]
    for state, new in zip((r, c), rule.accumulate_factored(torch, spec, (r, c), (row_means, column_means)), strict=True):
        _keep(state, new, finite)
    return magnitude > 0


def _tiles(g: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of rows or of columns, whichever lie further apart in memory: each tile is then nearly contiguous."""
    a, b = g.shape[-2:]
    by_rows = g.stride(-2) >= g.stride(-1)
    length, other = (a, b) if by_rows else (b, a)
    step = max(1, TILE * length // g.numel())
    for start in range(0, length, step):
        part, whole = slice(start, min(start + step, length)), slice(0, other)
        yield (part, whole) if by_rows else (whole, part)


def _share(tile: tuple[slice, slice], g: Tensor) -> float:
    """The part of each matrix that the tile covers."""
    rows, columns = tile
    return (rows.stop - rows.start) * (columns.stop - columns.start) / (g.shape[-2] * g.shape[-1])


def _clamped(spec: Spec, g: Tensor, finite: Tensor, work: torch.dtype) -> Tensor:
    return torch.where(finite, g.to(work).clamp(-spec.gradient_clip, spec.gradient_clip), 0)


def _keep(state: Tensor, new: Tensor, finite: Tensor) -> None:
    """Overwrite the state, unless the gradient was not finite."""
    state.copy_(torch.where(finite, new, state))
