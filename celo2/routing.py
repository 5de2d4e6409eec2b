"""Who moves which parameter, and why: what can be told from a name and a shape, and the table of the decisions.

Hidden matrices and convolutions go to the rule; embeddings, norms, biases and the output head go to AdamW. A front end
that knows more than names (PyTorch's module types) asks that first and comes here with the rest.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from celo2.errors import InputError
from celo2.views import MatrixAxes

CELO2, ADAMW = "celo2", "adamw"
RULES = (CELO2, ADAMW)

Override = Mapping[str, str] | Callable[[str, tuple[int, ...]], str | None]
"""Regular expressions of names (first match wins) to rules, or a function (name, shape) -> rule or None for no opinion."""

NAMES = {
    "embedding": r"(embed|(^|[._])(wte|wpe|tok|pos|cls_token|mask_token|codebook)([._]|$)|_token$|position_bias|pos_)",
    "norm": r"(norm|(^|[._])(ln|bn|gn)(_?\w?|\d+)?([._]|$))",
    "output head": r"((^|[._])(lm_head|head|heads|classifier|logits|score|unembed|output_projection)([._]|$))",
}
"""What the names of a field's parameters give away, in the order in which they are asked."""

EXTREME_ASPECT = 32
"""Long over short side from which a nameless matrix is more likely an embedding or a head than a hidden layer."""


@dataclasses.dataclass(frozen=True)
class Route:
    """One decision: which rule moves a parameter, and why."""

    name: str
    shape: tuple[int, ...]
    rule: str
    why: str
    axes: MatrixAxes | None = None
    """Where the module says more than the default reading of the shape."""
    doubtful: bool = False


class Routing(Sequence[Route]):
    """The decisions for all parameters, in order; its `str` is a table."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = tuple(routes)

    def __len__(self) -> int:
        return len(self._routes)

    def __getitem__(self, index: Any) -> Any:
        return self._routes[index]

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def __str__(self) -> str:
        cells = [("name", "shape", "rule", "why")]
        cells += [(r.name, "x".join(map(str, r.shape)) or "scalar", r.rule, r.why) for r in self]
        widths = [max(len(row[i]) for row in cells) for i in range(3)]
        return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]) for row in cells)

    __repr__ = __str__


def by_name_and_shape(name: str | None, shape: Sequence[int]) -> Route:
    """The route of a parameter of which nothing else is known; `name` is None where it has none."""
    shape = tuple(shape)
    shown = name or "(unnamed)"
    if len(shape) < 2:
        return Route(shown, shape, ADAMW, "vector" if shape else "scalar")
    for what, pattern in NAMES.items():
        if name and re.search(pattern, name.lower()):
            return Route(shown, shape, ADAMW, f"{what}, by its name")
    short, long = sorted(shape[-2:])
    if not name and len(shape) == 2 and short > 1 and long >= EXTREME_ASPECT * short:
        return Route(shown, shape, ADAMW, f"aspect {long // short}:1 looks like an embedding or a head", doubtful=True)
    return Route(shown, shape, CELO2, "hidden matrix" if len(shape) == 2 else "batch of hidden matrices")


def overridden(route: Route, override: Override | None) -> Route:
    """The route, or another where the user said so.

    Raises:
        InputError: the user's rule is neither "celo2" nor "adamw".
    """
    rule, why = None, "by your function"
    if callable(override):
        rule = override(route.name, route.shape)
    elif override is not None:
        for pattern, value in override.items():
            if re.search(pattern, route.name):
                rule, why = value, f"by your pattern {pattern!r}"
                break
    if rule is None:
        return route
    check_rule(rule)
    return dataclasses.replace(route, rule=rule, why=why, doubtful=False)


def check_rule(rule: str) -> None:
    """Raises InputError unless `rule` is the name of one."""
    if rule not in RULES:
        raise InputError(f"unknown rule {rule!r}: say {' or '.join(map(repr, RULES))}")
