"""Stochastic rounding of state in bfloat16, with the random bits that the PyTorch front end draws.

A mean of decay 0.999 changes by less than bfloat16 resolves; rounded to nearest it would get stuck.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from celo2.jax.tiles import take


class Noise(NamedTuple):
    """Counters from which the random bits of each element are hashed, both int32.

    They depend on the step and the element alone, so tiles and shards change no bit.
    """

    rows: jax.Array
    """(1, m, 1)"""
    columns: jax.Array
    """(1, 1, n)"""

    def of_rows(self, i: jax.Array | int, rows: int) -> Noise:
        """Return the noise of tile i."""
        return Noise(take(self.rows, {-2: (i, rows)}), self.columns)


def noise(step: jax.Array, m: int, n: int, transposed: bool) -> Noise:
    """Return counters for matrices in memory order at a step, counted from 1.

    `transposed` says that columns, not rows, are the short side of the rule's matrix.
    """
    a, b = (n, m) if transposed else (m, n)
    short = _hash(_hash(jnp.arange(a, dtype=jnp.int32)) + step.astype(jnp.int32))
    long = jnp.arange(b, dtype=jnp.int32) * 0x3C6EF372
    rows, columns = (long, short) if transposed else (short, long)
    return Noise(rows[None, :, None], columns[None, None, :])


def rounded(x: jax.Array, random: Noise) -> jax.Array:
    """Round float32 (up to 4, ..., m, n) to bfloat16, still stored as float32.

    A number is rounded up with the probability of what rounding down would lose.
    """
    # Two hashes of 32 bits give four arrays 16 random bits each.
    first = _hash(random.rows + random.columns)
    second = _hash(first ^ 0x1B873593)
    bits = jnp.stack([first, first >> 16, second, second >> 16][: len(x)])
    whole = jax.lax.bitcast_convert_type(x, jnp.int32) + (bits & 0xFFFF)
    return jax.lax.bitcast_convert_type(whole & -0x10000, jnp.float32)


def _hash(x: jax.Array) -> jax.Array:
    """Hash int32 with good avalanche: the finalizer "lowbias32" of C. Wellons.

    Masks make the shifts of signed integers logical.
    """
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -0x7B935975  # 0x846CA68B
    return x ^ ((x >> 16) & 0xFFFF)
