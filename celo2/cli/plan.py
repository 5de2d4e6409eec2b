"""`celo2 plan`: the learning rates of a run of `total_steps`."""

from __future__ import annotations

import dataclasses

from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Plan:
    """Show the learning rate of each kind of parameter over a run, as `total_steps=` sets it."""

    total_steps: int
    """Optimizer steps of the whole run."""
    theta: str = "celo2"
    """Theta whose policy it is: the name of one that ships with the package, or a file."""

    def __call__(self, console: Console) -> None:
        """Print the table."""
        from celo2.policy import plan
        from celo2.theta import load_theta

        policy = load_theta(self.theta).required_policy()
        shown = plan(policy, self.total_steps)
        caption = (
            f"{shown.decay}; "
            "optimizer.plan() shows the learning rates of your model, lower where it is wider than "
            f"{policy.reference_width:g}, or its weights are far smaller than usual"
        )
        table = Table("step", *shown.learning_rates, caption=caption)
        for i, step in enumerate(shown.steps):
            cells = [f"{values[i]:.2e}" for values in shown.learning_rates.values()]
            table.add_row(str(step), *cells)
        console.print(table)
