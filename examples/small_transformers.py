"""A task family to adapt the shipped theta to: byte transformers a quarter as wide as the real one.

Run: celo2 meta-train --family examples.small_transformers:family

The loss that theta is learned by is on a part of the training text that is not trained on here, so
the held-out text has no part in it.
"""

from __future__ import annotations

import jax.numpy as jnp

from celo2.data.text import standard_library
from celo2.tasks.text_sets import TextWindows
from celo2.tasks.transformer import ByteTransformer


def family() -> ByteTransformer:
    """Return transformers of width 16 on windows of 32 bytes."""
    text = standard_library().train
    cut = len(text) * 4 // 5
    data = TextWindows(jnp.asarray(text[:cut]), jnp.asarray(text[cut:]), context=32, batch_size=8)
    return ByteTransformer(data, width=16)
