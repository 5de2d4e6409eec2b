"""The search for the recipe, as data: what was asked, and the configuration that answers it."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

from celo2.meta.config import MetaConfig, preset
from celo2.meta.estimators import Unrolled


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One meta-training run of the search, short enough that many can be afforded: 150 outer steps unless it says more."""

    question: str
    config: MetaConfig


RECIPE = replace(preset("celo2"), outer_iterations=150)
LOOP = RECIPE.inner
UNROLLED = Unrolled(4, 50, 0.01)


def _loop(question: str, **changes: object) -> Experiment:
    return Experiment(question, replace(RECIPE, inner=replace(LOOP, **changes)))


def _recipe(question: str, **changes: object) -> Experiment:
    return Experiment(question, replace(RECIPE, **changes))


EXPERIMENTS = {
    "recipe": _recipe("the recipe, short"),
}
