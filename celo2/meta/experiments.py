"""The search for the recipe, as data: what was asked, and the configuration that answers it."""

from __future__ import annotations

import dataclasses

from celo2.meta.config import MetaConfig


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One meta-training run of the search."""

    question: str
    config: MetaConfig
