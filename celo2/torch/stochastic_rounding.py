"""State in bfloat16: rounded up or down at random, so that a running mean is right on average where its changes are tiny."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Noise(NamedTuple):
    """Where the random bits of an entry come from: a counter for its row and one for its column, both int32.

    They depend on the step and the entry alone, so a resumed run, another tiling or the compiled form draws the same bits.
    """

    rows: Tensor
    """(m, 1), or (..., m, 1) where matrices have taken different numbers of steps"""
    columns: Tensor
    """(1, n), or likewise"""

    @property
    def mT(self) -> Noise:  # noqa: N802 - the word of torch
        """The same bits for the entries of the matrix transposed."""
        return Noise(self.columns.mT, self.rows.mT)

    def of_rows(self, rows: slice) -> Noise:
        """Of some rows alone."""
        return Noise(self.rows[..., rows, :], self.columns)


def noise(step: Tensor, shape: torch.Size, origin: Sequence[int] = (0, 0)) -> Noise:
    """Counters for matrices (..., m, n) at a step, 0-d or (..., 1, 1); `origin` is where they start in larger ones."""
    rows, columns = (
        torch.arange(start, start + size, dtype=torch.int32, device=step.device)
        for start, size in zip(origin, shape[-2:], strict=True)
    )
    rows, columns = rows[:, None], columns[None]
    rows, columns = _mixed(_mixed(rows) + step.to(torch.int32)), columns * 0x3C6EF372
    # Of one rank, so that a batch and the same transposed are one kind to the compiler.
    return Noise(rows, columns.expand(*rows.shape[:-2], 1, -1).contiguous())


def keep(state: Sequence[Tensor], new: Sequence[Tensor], finite: Tensor, noise: Noise | None) -> None:
    """Overwrite the state of each entry, unless its gradient was not finite; with noise, rounded to bfloat16 at random."""
    if noise is not None:
        first = _mixed(noise.rows + noise.columns)
        second = _mixed(first ^ 0x1B873593)
        new = [_rounded(x, bits) for x, bits in zip(new, (first, first >> 16, second, second >> 16), strict=True)]
    for old, value in zip(state, new, strict=True):
        old.copy_(torch.where(finite, value, old.to(value.dtype)))


def _rounded(x: Tensor, bits: Tensor) -> Tensor:
    """float32 whose lower 16 bits are zero: up with the probability of what was cut off."""
    return ((x.view(torch.int32) + (bits & 0xFFFF)) & -0x10000).view(torch.float32)


def _mixed(x: Tensor) -> Tensor:
    """A hash of int32 with good avalanche (the finaliser "lowbias32" of C. Wellons); shifts are made logical by masks."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -0x7B935975  # 0x846CA68B
    return x ^ ((x >> 16) & 0xFFFF)
