"""The messages that the front ends may show, read from their source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("torch/*.py", "jax/*.py", "parameters/*.py", "rule/*.py", "theta.py", "policy.py")
"""What a user of a front end may meet, in celo2/."""
GAP = "…"
"""Stands for a value that the message names."""


def messages() -> dict[str, str]:
    """Return {message with gaps: where it is} of every InputError and every warning."""
    trees = {}
    for pattern in SOURCES:
        for path in sorted((ROOT / "celo2").glob(pattern)):
            trees[path.relative_to(ROOT)] = ast.parse(path.read_text())
    names: dict[str, str] = {}
    for tree in trees.values():  # all of them first: some messages are imported
        names |= _constants(tree)
    found = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _shows(node.func) and node.args:
                for text in _texts(node.args[0], names):
                    found[_without_double_gaps(text)] = f"{path}:{node.lineno}"
    return found


def _shows(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("InputError", "warn")


def _constants(tree: ast.Module) -> dict[str, str]:
    """Return the strings that the module gives a name."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            texts = list(_texts(node.value, {}))
            if len(texts) == 1:
                found[node.targets[0].id] = texts[0]
    return found


def _texts(node: ast.expr, names: dict[str, str]) -> Iterator[str]:
    """Yield the text of a string expression, with gaps; both branches of a condition."""
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body, names)
        yield from _texts(node.orelse, names)
    elif isinstance(node, ast.JoinedStr):
        parts = []
        for value in node.values:
            inner = value.value if isinstance(value, ast.FormattedValue) else value
            known = isinstance(inner, ast.Constant) or getattr(inner, "id", "") in names
            parts.append(next(_texts(inner, names)) if known else GAP)
        yield "".join(parts)
    else:
        yield names.get(getattr(node, "id", ""), GAP)


def _without_double_gaps(text: str) -> str:
    while GAP + GAP in text:
        text = text.replace(GAP + GAP, GAP)
    return text
