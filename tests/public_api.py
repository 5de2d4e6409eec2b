"""The public signatures of the package as text: python -m tests.public_api writes them.

A change of the file in review is a change of what users rely on.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODULES = ("celo2", "celo2.torch", "celo2.jax", "celo2.baselines", "celo2.rule")
FILE = Path(__file__).parent / "golden/public_api.txt"


def public_api() -> str:
    """Return one line per public name, and one per public method."""
    lines = []
    for name in MODULES:
        module = importlib.import_module(name)
        lines.append(f"# {name}")
        for public in module.__all__:
            lines += _lines(public, getattr(module, public))
        lines.append("")
    return "\n".join(lines)


class _Text(str):
    """A string that shows itself without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _signature(value: Any) -> str:
    """Return a signature without quotes around types, and with long defaults cut short."""
    signature = inspect.signature(value)
    parameters = []
    for each in signature.parameters.values():
        annotation = getattr(each.annotation, "__forward_arg__", each.annotation)
        if isinstance(annotation, str):
            each = each.replace(annotation=_Text(annotation))
        if len(repr(each.default)) > 60:
            each = each.replace(default=_Text(f"{type(each.default).__name__}(...)"))
        parameters.append(each)
    returned = signature.return_annotation
    returned = _Text(returned) if isinstance(returned, str) else returned
    return str(signature.replace(parameters=parameters, return_annotation=returned))


def _lines(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        bases = "" if issubclass(value, Exception) else _signature(value)
        yield f"class {name}{bases}"
        for method, member in sorted(vars(value).items()):
            if not method.startswith("_"):
                yield from _member(f"{name}.{method}", member)
    elif callable(value):
        yield f"{name}{_signature(value)}"
    else:
        yield f"{name}: {type(value).__name__}"


def _member(name: str, member: Any) -> Iterator[str]:
    function = getattr(member, "__func__", member)
    if isinstance(member, property):
        yield f"{name}: property"
    elif inspect.isroutine(function):
        yield f"{name}{_signature(function)}"


if __name__ == "__main__":
    FILE.write_text(public_api())
