"""Routing of the leaves of a tree by the names on their paths and their shapes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from celo2.parameters.routing import CELO2, Routing, by_names_and_shapes


def route(params: Any, everywhere: bool = False) -> Routing:
    """Return which optimizer updates each leaf, and why, by the names on its path and its shape.

    With `everywhere`, the rule updates every leaf (Celo2-base).
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    routes = by_names_and_shapes([(_dotted(path), jnp.shape(leaf)) for path, leaf in leaves])
    if everywhere:
        for i, each in enumerate(routes):
            why = f"Celo2-base updates everything ({each.why})"
            routes[i] = dataclasses.replace(each, rule=CELO2, why=why)
    return Routing(routes)


def rules(params: Any, everywhere: bool = False) -> Any:
    """Return the tree of the rules of the leaves: what `route` decides."""
    structure = jax.tree.structure(params)
    return structure.unflatten([each.rule for each in route(params, everywhere)])


def _dotted(path: Any) -> str:
    """Return a key path as a dotted name.

    nnx and equinox wrap values in attributes that say nothing; haiku's names hold slashes, and
    "~" for the constructor.
    """
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    return ".".join(part for part in name.replace("/", ".").split(".") if part != "~")
