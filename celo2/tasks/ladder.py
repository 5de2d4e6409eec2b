"""GPTs from 0.1 to 3 million parameters on one text: how the gap between optimizers scales.

The text is the Python standard library as bytes, of which there are more than of the benchmark's
own; the larger rungs still see it several times.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp

from celo2.data.text import standard_library
from celo2.tasks.base import TaskFamily
from celo2.tasks.gpt import GPT
from celo2.tasks.text_sets import TextWindows

CONTEXT = 128
BATCH_SIZE = 32
TOKENS_PER_PARAMETER = 20


@dataclasses.dataclass(frozen=True)
class Rung:
    """A size of GPT."""

    width: int
    depth: int
    parameters: int

    @property
    def steps(self) -> int:
        """Number of steps that show it 20 tokens per parameter."""
        return round(TOKENS_PER_PARAMETER * self.parameters / (CONTEXT * BATCH_SIZE))

    def family(self) -> TaskFamily:
        """Return the network with its data."""
        text = standard_library()
        windows = TextWindows(
            jnp.asarray(text.train), jnp.asarray(text.held_out), CONTEXT, BATCH_SIZE
        )
        return GPT(windows, self.width, self.depth)


RUNGS = {
    "gpt-0.1m": Rung(64, 2, 124_672),
    "gpt-0.4m": Rung(96, 3, 372_576),
    "gpt-1m": Rung(160, 3, 989_600),
    "gpt-3m": Rung(256, 4, 3_257_856),
}
LADDER: dict[str, Callable[[], TaskFamily]] = {
    name: functools.partial(Rung.family, rung) for name, rung in RUNGS.items()
}
