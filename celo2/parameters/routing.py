"""Which optimizer updates which parameter, as far as names and shapes tell, and the table of it.

Hidden matrices and convolutions go to the learned rule; embeddings, norms, biases and the output
head go to AdamW. A front end that knows more than names (PyTorch's module types) uses that first,
and this module for the rest.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from celo2.errors import InputError
from celo2.parameters.views import MatrixAxes

CELO2, ADAMW = "celo2", "adamw"
RULES = (CELO2, ADAMW)
HIDDEN, EMBEDDING, HEAD, VECTOR = KINDS = ("hidden", "embedding", "head", "vector")
"""Kinds of parameters: each has a learning rate of its own under a policy."""

Override = Mapping[str, str] | Callable[[str, tuple[int, ...]], str | None]
"""{regular expression of a name: rule}, of which the first match wins, or a function
(name, shape) -> rule, or None for no opinion."""

# All patterns are matched against whole components of a dotted name.
EMBEDDING_NAME = re.compile(
    r"(?!patch)(\w+_)?(embed|embeds|embedding|embeddings|emb|wte|wpe)(_(tokens?|positions?|table))?"
    r"|(cls|mask|dist|query|prefix|register)_tokens?|pos(ition)?|(\w+_)?position_bias(_table)?"
)
GAIN_NAME = re.compile(r"bias\w*|scale|gamma|beta|gain|layer_?scale\w*|weight_g|original0")
HEAD_NAME = re.compile(
    r"head|(?!attention_|attn_)\w+_head|classifier|logits|to_logits|unembed|output_projection"
)
TOP_LEVEL_HEAD_NAME = re.compile(
    r"out|outc|output|outputs|output_layer|fc|fc_out|proj_out|readout|score|generator|predictor"
)
"""Names of the output head directly below the model, and of something hidden further down."""
WRAPPERS = {"module", "_orig_mod", "params"}
"""Prefixes that DistributedDataParallel, torch.compile and flax add to all names of a model."""

EXTREME_ASPECT = 32
EXTREME_LENGTH = 10_000
"""Ratio of the sides, and length of the longer one, from which a matrix without a name is more
likely an embedding or a head."""


@dataclasses.dataclass(frozen=True)
class Route:
    """One decision: which rule updates a parameter, and why."""

    name: str
    shape: tuple[int, ...]
    rule: str
    why: str
    axes: MatrixAxes | None = None
    """Axes of the matrix, where the module says more than the default reading of the shape."""
    doubtful: bool = False
    """Whether to warn the user."""
    decays: bool = True
    """Whether weight decay applies by default: not to biases, norms, gains and other vectors."""
    adamw_kind: str = VECTOR
    """What the parameter is to a policy if AdamW updates it."""

    @property
    def kind(self) -> str:
        """One of `KINDS`: hidden is whatever the learned rule updates."""
        return HIDDEN if self.rule == CELO2 else self.adamw_kind


class Routing(Sequence[Route]):
    """The decisions for all parameters, in order; its `str` is a table."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = tuple(routes)

    def __len__(self) -> int:
        return len(self._routes)

    def __getitem__(self, index: Any) -> Any:
        return self._routes[index]

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def __str__(self) -> str:
        rows = [("name", "shape", "rule", "why")]
        for route in self:
            shape = "x".join(map(str, route.shape)) or "scalar"
            rows.append((route.name, shape, route.rule, route.why))
        name, shape, rule, _ = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(f"{n:{name}}  {s:{shape}}  {r:{rule}}  {why}" for n, s, r, why in rows)

    __repr__ = __str__


def by_names_and_shapes(tensors: Sequence[tuple[str | None, Sequence[int]]]) -> list[Route]:
    """Return the routes of parameters from their names, None where there is none, and shapes."""
    heads = heads_among([name for name, shape in tensors if name and len(shape) > 1])
    return [_by_name_and_shape(name, tuple(shape), heads) for name, shape in tensors]


def heads_among(names: Iterable[str]) -> set[str]:
    """Return the names of output heads among names of weights in the order of the model.

    Of a head with several layers (`classifier.0.weight`, `classifier.3.weight`) it is the last.
    """
    last: dict[tuple[str, ...], str] = {}
    for name in names:
        parts = name.lower().split(".")
        while len(parts) > 1 and parts[0] in WRAPPERS:
            parts = parts[1:]
        for i, part in enumerate(parts[:-1] if len(parts) > 1 else parts):
            if HEAD_NAME.fullmatch(part) or (i == 0 and TOP_LEVEL_HEAD_NAME.fullmatch(part)):
                last[tuple(parts[: i + 1])] = name
    return set(last.values())


def _by_name_and_shape(name: str | None, shape: tuple[int, ...], heads: set[str]) -> Route:
    shown = name or "(unnamed)"
    if len(shape) < 2:
        return Route(shown, shape, ADAMW, "vector" if shape else "scalar", decays=False)
    if name in heads:
        return Route(shown, shape, ADAMW, "output head, by its name", adamw_kind=HEAD)
    parts = [part for part in (name or "").lower().split(".") if not part.isdecimal()]
    if any(EMBEDDING_NAME.fullmatch(part) for part in parts[-2:]):
        return Route(shown, shape, ADAMW, "embedding, by its name", adamw_kind=EMBEDDING)
    if parts and GAIN_NAME.fullmatch(parts[-1]):
        return Route(shown, shape, ADAMW, "bias or gain, by its name", decays=False)
    if len(shape) > 2 and sum(length > 1 for length in shape) < 2:
        return Route(shown, shape, ADAMW, "vector with axes of length 1", decays=False)
    short, long = sorted(shape[-2:])
    extreme = short > 1 and (long >= EXTREME_ASPECT * short or long >= EXTREME_LENGTH)
    if not name and len(shape) == 2 and extreme:
        why = f"{long} to {short} looks like an embedding or a head"
        return Route(shown, shape, ADAMW, why, doubtful=True, adamw_kind=EMBEDDING)
    why = "hidden matrix" if len(shape) == 2 else "batch of hidden matrices"
    return Route(shown, shape, CELO2, why, adamw_kind=HEAD)


def overridden(route: Route, override: Override | None) -> Route:
    """Return the route, or the one that the user stated.

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
    """Raise InputError unless `rule` is the name of one."""
    if rule not in RULES:
        raise InputError(f"unknown rule {rule!r}: say {' or '.join(map(repr, RULES))}")
