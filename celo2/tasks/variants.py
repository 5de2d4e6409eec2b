"""Variants of a task family: other sizes, weights at another scale, bfloat16."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo2.errors import InputError
from celo2.tasks.base import Metrics, ModelState, Params, TaskFamily
from celo2.tasks.reparametrize import Reparametrize


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InBfloat16:
    """A family whose networks compute in bfloat16, on weights that are kept in float32."""

    family: TaskFamily

    def sample(self, key: jax.Array) -> Any:
        return self.family.sample(key)

    def init(self, key: jax.Array, task: Any) -> tuple[Params, ModelState]:
        return self.family.init(key, task)

    def loss(
        self, params: Params, state: ModelState, task: Any, key: jax.Array
    ) -> tuple[jax.Array, ModelState]:
        loss, new = self.family.loss(_rounded(params), state, task, key)
        kept = jax.tree.map(lambda old, x: x.astype(old.dtype), state, new)
        return loss.astype(jnp.float32), kept

    def evaluate(self, params: Params, state: ModelState, task: Any, key: jax.Array) -> Metrics:
        metrics = self.family.evaluate(_rounded(params), state, task, key)
        return {name: value.astype(jnp.float32) for name, value in metrics.items()}


def _rounded(params: Params) -> Params:
    return {name: p.astype(jnp.bfloat16) for name, p in params.items()}


def with_batch_size(family: TaskFamily, factor: float) -> TaskFamily:
    """Return the family with batches that many times as large.

    Raises:
        InputError: the family has no data set with a batch size.
    """
    data = getattr(family, "data", None)
    if not hasattr(data, "batch_size"):
        raise InputError(
            f"{type(family).__name__} has no data set with a batch size; take another problem"
        )
    size = max(1, round(factor * data.batch_size))
    return dataclasses.replace(family, data=dataclasses.replace(data, batch_size=size))  # type: ignore[type-var]


def with_width(family: TaskFamily, factor: int) -> TaskFamily:
    """Return the family with networks that many times as wide.

    Raises:
        InputError: the family states no width.
    """
    if hasattr(family, "width"):
        return dataclasses.replace(family, width=factor * family.width)  # type: ignore[type-var]
    if hasattr(family, "hidden") and isinstance(family.hidden, tuple):
        wider = tuple(factor * width for width in family.hidden)
        return dataclasses.replace(family, hidden=wider)  # type: ignore[type-var]
    raise InputError(f"{type(family).__name__} states no width; take another problem")


def at_scale(family: TaskFamily, factor: float) -> TaskFamily:
    """Return the family with all weights that many times as large, which the network divides by."""
    return Reparametrize(family, 1 / factor, 1 / factor)


class Variant(NamedTuple):
    """One change of a family."""

    title: str
    make: Callable[[TaskFamily], TaskFamily]


VARIANTS: dict[str, Variant] = {
    "batch-quarter": Variant("batch size / 4", lambda family: with_batch_size(family, 0.25)),
    "batch-4x": Variant("batch size x 4", lambda family: with_batch_size(family, 4.0)),
    "width-4x": Variant("4 x as wide", lambda family: with_width(family, 4)),
    "weights-tenth": Variant("weights stored / 10", lambda family: at_scale(family, 0.1)),
    "weights-10x": Variant("weights stored x 10", lambda family: at_scale(family, 10.0)),
    "bfloat16": Variant("computed in bfloat16", InBfloat16),
}
