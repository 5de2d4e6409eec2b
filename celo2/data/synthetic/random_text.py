"""Text drawn from a random source: a million letters, more than a run of 5,000 steps reads."""

from __future__ import annotations

import numpy as np

SYMBOLS = 32
"""Letters of the random text."""
LENGTH = 1 << 20
HELD_OUT = 1 << 16


def random_text(seed: int) -> np.ndarray:
    """Draw (LENGTH,) uint8 from a source whose next letter depends on the last two.

    Half of its surprise is in the rows of one table, shared by all letters before the last, so a
    network first learns pairs of letters, then triples.
    """
    rng = np.random.default_rng(seed)
    pairs = rng.gamma(0.15, size=(SYMBOLS, SYMBOLS))
    triples = rng.gamma(0.1, size=(SYMBOLS, SYMBOLS, SYMBOLS))
    table = pairs[None] / pairs.sum(-1)[None, :, None] + triples / triples.sum(-1, keepdims=True)
    table = np.cumsum(table / table.sum(-1, keepdims=True), -1)
    streams = 1024  # texts side by side, one after the other in the result
    letters = np.zeros((LENGTH // streams, streams), np.uint8)
    before, last = rng.integers(SYMBOLS, size=(2, streams))
    for row in letters:
        drawn = (table[before, last] < rng.random((streams, 1))).sum(-1)
        before, last = last, np.minimum(drawn, SYMBOLS - 1)
        row[:] = last
    return letters.T.reshape(-1)
