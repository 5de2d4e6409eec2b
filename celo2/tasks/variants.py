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
class RoundedToBfloat16:
    """A family in which weights, as the loss reads them, and gradients are rounded to bfloat16.

    The weights themselves are kept in float32, and evaluated in it.
    """

    family: TaskFamily

    def sample(self, key: jax.Array) -> Any:
        return self.family.sample(key)

    def init(self, key: jax.Array, task: Any) -> tuple[Params, ModelState]:
        return self.family.init(key, task)

    def loss(
        self, params: Params, state: ModelState, task: Any, key: jax.Array
    ) -> tuple[jax.Array, ModelState]:
        return self.family.loss(_rounded(params), state, task, key)

    def evaluate(self, params: Params, state: ModelState, task: Any, key: jax.Array) -> Metrics:
        return self.family.evaluate(params, state, task, key)


def _rounded(params: Params) -> Params:
    """Round weights, and their gradients on the way back, to bfloat16; all dtypes stay."""
    return {name: p.astype(jnp.bfloat16).astype(p.dtype) for name, p in params.items()}


def with_batch_size(family: TaskFamily, factor: float) -> TaskFamily:
    """Return the family with batches that many times as large.

    Raises:
        InputError: neither the family nor a part of it states a batch size.
    """
    changed = _with_batch_size(family, factor)
    if changed is None:
        raise InputError(f"{type(family).__name__} states no batch size; take another problem")
    return changed


def _with_batch_size(part: Any, factor: float) -> Any:
    """Return a part of a family with another batch size; None if it states none."""
    if hasattr(part, "batch_size"):
        return dataclasses.replace(part, batch_size=max(1, round(factor * part.batch_size)))
    for field in dataclasses.fields(part):
        inner = getattr(part, field.name)
        changed = _with_batch_size(inner, factor) if dataclasses.is_dataclass(inner) else None
        if changed is not None:
            return dataclasses.replace(part, **{field.name: changed})
    return None


def with_width(family: TaskFamily, factor: int) -> TaskFamily:
    """Return the family with networks that many times as wide.

    Raises:
        InputError: the family states no width.
    """
    stated: Any = family
    if hasattr(stated, "width"):
        return dataclasses.replace(stated, width=factor * stated.width)
    for name in ("hidden", "widths"):
        of_layers = getattr(stated, name, None)
        if isinstance(of_layers, tuple):
            return dataclasses.replace(stated, **{name: tuple(factor * w for w in of_layers)})
    raise InputError(f"{type(family).__name__} states no width; take another problem")


def at_scale(family: TaskFamily, factor: float) -> TaskFamily:
    """Return the family with all weights that many times as large, which the network divides by."""
    return Reparametrize(family, 1 / factor, 1 / factor)


class Variant(NamedTuple):
    """One change of a family."""

    title: str
    make: Callable[[TaskFamily], TaskFamily]
    batch_factor: float = 1.0
    """How many times as large its batches are."""


VARIANTS: dict[str, Variant] = {
    "batch-quarter": Variant("batch size / 4", lambda family: with_batch_size(family, 0.25), 0.25),
    "batch-4x": Variant("batch size x 4", lambda family: with_batch_size(family, 4.0), 4.0),
    "width-4x": Variant("4 x as wide", lambda family: with_width(family, 4)),
    "weights-tenth": Variant("weights stored / 10", lambda family: at_scale(family, 0.1)),
    "weights-10x": Variant("weights stored x 10", lambda family: at_scale(family, 10.0)),
    "bfloat16": Variant("weights and gradients in bfloat16", RoundedToBfloat16),
}
