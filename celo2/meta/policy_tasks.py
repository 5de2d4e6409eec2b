"""The tasks on which a policy is learned: small networks on data of their own, none of validation.

Images are the four offline sets and the street digits at 8x8; text is drawn from a random source,
so it does not run out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from celo2.data.images import LabeledSet
from celo2.data.synthetic.offline import offline_sets
from celo2.data.synthetic.street import street_digits
from celo2.tasks.autoencoder import Autoencoder
from celo2.tasks.base import TaskFamily
from celo2.tasks.conv import ConvNet
from celo2.tasks.image_sets import ImageSets
from celo2.tasks.lstm import ByteLSTM
from celo2.tasks.mlp import ImageMLP
from celo2.tasks.text_sets import TextWindows
from celo2.tasks.transformer import ByteTransformer

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


def _images(batch_size: int) -> ImageSets:
    return ImageSets.of(_sets(), batch_size=batch_size, train_size=4096)


@functools.cache
def _sets() -> list[LabeledSet]:
    return [*offline_sets(0), street_digits(False)]


def _text(seed: int, context: int, batch_size: int) -> TextWindows:
    text = jnp.asarray(random_text(seed))
    return TextWindows(text[:-HELD_OUT], text[-HELD_OUT:], context, batch_size)


TASKS: dict[str, Callable[[], TaskFamily]] = {
    "mlp": lambda: ImageMLP(_images(64), hidden=(32,)),
    "wide-mlp": lambda: ImageMLP(_images(32), hidden=(96,)),
    "conv": lambda: ConvNet(_images(16), widths=(8, 16)),
    "autoencoder": lambda: Autoencoder(_images(32), widths=(32, 8)),
    "transformer": lambda: ByteTransformer(_text(0, 16, 8), width=32, depth=1),
    "lstm": lambda: ByteLSTM(_text(1, 16, 8), embedding_width=16, width=32),
}
"""By name; data are made at the call."""
