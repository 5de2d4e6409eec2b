"""`celo2 routing`: which optimizer updates which parameter of a model, and why."""

from __future__ import annotations

import dataclasses
import pkgutil
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from celo2.errors import InputError


@dataclasses.dataclass(frozen=True)
class Routing:
    """Show which parameters of a PyTorch model the rule updates, which AdamW, and why."""

    model: Annotated[str, tyro.conf.Positional] = "celo2.evaluate.torch_demo.gpt:GPT"
    """module:callable that returns the model when called without arguments; by default the GPT of
    `celo2 train`."""

    def __call__(self, console: Console) -> None:
        """Print the table."""
        from celo2.torch import Celo2

        table = Table("name", "shape", "rule", "why")
        for route in Celo2(_model(self.model), lr=1e-3).routing():
            table.add_row(route.name, "x".join(map(str, route.shape)), route.rule, route.why)
        console.print(table)


def _model(path: str) -> Any:
    """Return the PyTorch model of module:callable.

    Raises:
        InputError: it cannot be imported or called, or returns something else.
    """
    try:
        model = pkgutil.resolve_name(path)()
    except Exception as error:  # whatever the user's code raises
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"cannot make a model of {path!r} ({reason}); "
            "give module:callable, callable without arguments"
        ) from error
    if not hasattr(model, "named_parameters"):
        kind = type(model).__name__
        raise InputError(f"{path!r} returns a {kind}; give a callable that returns a torch Module")
    return model
