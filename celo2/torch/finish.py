"""What follows the direction: what brings it to RMS 1, and what the guard adds to it.

The owner of a sharded matrix that was orthogonalized has brought it to RMS 1 already, but lacks its
momentum. So the guard sends one more message, of three numbers per matrix; in Celo2-base it takes
the place of the one that normalization needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from celo2 import rule
from celo2.rule import Products
from celo2.torch.distributed import Exchange, rms_scale, sum_of_squares
from celo2.torch.pack import is_transposed
from celo2.torch.plan import MatrixBatch


class Result(NamedTuple):
    """What is known of matrices once their direction is computed."""

    d: Tensor
    """The MLP's output, local, (..., a, b)."""
    magnitudes: Tensor
    """Sums of the magnitudes of the new momenta over full matrices, (momenta, ..., 1, 1)."""


class Scales(NamedTuple):
    """The step is `direction` times the direction and `momentum` times M, each (..., 1, 1)."""

    direction: Tensor
    momentum: Tensor | None
    """None without a guard."""


def scales(
    batches: Sequence[MatrixBatch],
    results: Sequence[Result],
    to_rms_one: Sequence[Tensor] | None,
    exchange: Exchange,
) -> list[Scales]:
    """Return the scales of batches that share their messages.

    Args:
        batches: matrices, whose accumulators are the new ones.
        results: their directions, orthogonalized if they are to be.
        to_rms_one: what brings each to RMS 1, where that is known.
        exchange: with other ranks.
    """
    if batches[0].rule.guard is not None:
        return _guarded(batches, results, to_rms_one, exchange)
    if to_rms_one is None:
        to_rms_one = _normalized(batches, results, exchange)
    found = []
    for scale, (_, magnitudes) in zip(to_rms_one, results, strict=True):
        # A matrix that never had a gradient does not move.
        found.append(Scales(scale * (magnitudes.sum(0) > 0), None))
    return found


def guarding_momentum(batch: MatrixBatch) -> Tensor:
    """Return the momentum that updates are pushed along, (..., a, b)."""
    return batch.accumulators.averages[rule.MOMENTUM]


def _normalized(
    batches: Sequence[MatrixBatch], results: Sequence[Result], exchange: Exchange
) -> list[Tensor]:
    """Return what brings the directions of Celo2-base and of vectors to RMS 1."""
    squares = []
    # A third sum: nobody sees these matrices whole.
    for batch, (d, _) in zip(batches, results, strict=True):
        squares.append([batch.window.place(sum_of_squares(d))])
    found = []
    for batch, (total,) in zip(batches, exchange.sum(squares), strict=True):
        found.append(_to_rms_one(batch, batch.window.take(total)))
    return found


def _to_rms_one(batch: MatrixBatch, squares: Tensor) -> Tensor:
    return rms_scale(batch.rule.spec.normalize_epsilon, squares / (batch.window.a * batch.window.b))


def _guarded(
    batches: Sequence[MatrixBatch],
    results: Sequence[Result],
    to_rms_one: Sequence[Tensor] | None,
    exchange: Exchange,
) -> list[Scales]:
    sums = []
    for batch, (d, magnitudes) in zip(batches, results, strict=True):
        m, magnitude = guarding_momentum(batch), magnitudes[rule.MOMENTUM]
        if is_transposed(d):
            m, d = m.mT, d.mT
        sums.append([batch.window.place(batch.rule.kernels.products(m, d, magnitude))])
    found = []
    for i, (total,) in enumerate(exchange.sum(sums)):
        batch, magnitude = batches[i], results[i].magnitudes[rule.MOMENTUM]
        of_m, both, of_d = batch.window.take(total)
        scale = _to_rms_one(batch, of_d) if to_rms_one is None else to_rms_one[i]
        guard, entries = batch.rule.guard, batch.window.a * batch.window.b
        assert guard is not None
        of_step = Products(of_m, scale * both, scale * scale * of_d)
        push = rule.push(torch, guard.kappa, entries, magnitude, of_step)
        guard.count(push.pushed & batch.window.take(batch.inputs.active))
        found.append(Scales(scale * push.on_update, push.on_momentum))
    return found
