"""Stochastic rounding of state in bfloat16, so that slow running means are right on average.

A mean of decay 0.999 changes by less than bfloat16 resolves; rounded to nearest it would get stuck.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Noise(NamedTuple):
    """Counters from which the random bits of each element are hashed, both int32.

    They depend on the step and the element alone, so that a resumed run, other tiles, shards and
    the compiled kernel draw the same bits.
    """

    rows: Tensor
    """(m, 1), or (..., m, 1) where matrices have taken different numbers of steps."""
    columns: Tensor
    """(1, n), or (..., 1, n)."""

    @property
    def mT(self) -> Noise:  # noqa: N802 - as in torch
        """Return the same bits for the elements of the transposed matrix."""
        return Noise(self.columns.mT, self.rows.mT)

    def of_rows(self, rows: slice) -> Noise:
        """Return the noise of some rows."""
        return Noise(self.rows[..., rows, :], self.columns)


def noise(step: Tensor, rows: Tensor, columns: Tensor) -> Noise:
    """Return counters for the elements of a matrix at a step.

    Args:
        step: steps so far, 0-d or (..., 1, 1) for a batch of matrices.
        rows: index of each row in the full matrix, int32 (m, 1).
        columns: index of each column, int32 (1, n).
    """
    # Hashed per row here and per element in the kernel: m + n counters are stored, not m n.
    rows, columns = _hash(_hash(rows) + step.to(torch.int32)), columns * 0x3C6EF372
    # Both get the rank of the batch: a batch and its transpose are then one kind to the compiler.
    return Noise(rows, columns.expand(*rows.shape[:-2], 1, -1).contiguous())


def store(
    state: Sequence[Tensor], new: Sequence[Tensor], active: Tensor, noise: Noise | None
) -> None:
    """Overwrite state where `active`; with noise, rounded stochastically to bfloat16.

    Args:
        state: up to four tensors (..., m, n), written in place.
        new: their new values, in float32 or float64.
        active: 0-d or (..., 1, 1) bool, per matrix.
        noise: random bits; None where the state has the precision of the new values.
    """
    if noise is not None:
        # Two hashes of 32 bits give four tensors 16 random bits each.
        first = _hash(noise.rows + noise.columns)
        second = _hash(first ^ 0x1B873593)
        bits = (first, first >> 16, second, second >> 16)
        new = [_rounded(x, b) for x, b in zip(new, bits[: len(new)], strict=True)]
    # `where` instead of a branch: whether a matrix is active is known on its device alone. State is
    # read and written once, block by block.
    for old, value in zip(state, new, strict=True):
        old.copy_(torch.where(active, value, old.to(value.dtype)))


def _rounded(x: Tensor, bits: Tensor) -> Tensor:
    """Round float32 to bfloat16 (still stored as float32), up with the probability of the rest."""
    # Adding 16 random bits carries into the upper half with the probability of the lower half; the
    # lower half is then cut off.
    return ((x.view(torch.int32) + (bits & 0xFFFF)) & -0x10000).view(torch.float32)


def _hash(x: Tensor) -> Tensor:
    """Hash int32 with good avalanche: the finalizer "lowbias32" of C. Wellons.

    Masks make the shifts of signed integers logical.
    """
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -0x7B935975  # 0x846CA68B
    return x ^ ((x >> 16) & 0xFFFF)
