"""`celo2 meta-train-policy`: the learning rates of `total_steps=`, found by evolution."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rich.console import Console

from celo2.cli.terminal import progress
from celo2.errors import InputError


@dataclasses.dataclass(frozen=True)
class MetaTrainPolicy:
    """Learn the policy of a theta by CMA-ES over whole runs of small networks.

    Interrupt it at any time; the same command resumes, and a larger --generations goes on.
    """

    theta: str = "celo2"
    """Theta whose rule is used and whose policy it starts from: a name or a file."""
    out: Path = Path("runs/policy")
    """Folder of the state, the baselines and theta.safetensors."""
    generations: int = 30
    """Generations in all."""
    population: int = 12
    """Candidates per generation."""
    seed: int = 0
    """Of the candidates, the networks and the batches."""
    tasks: tuple[str, ...] | None = None
    """Some of mlp, wide-mlp, conv, autoencoder, transformer, lstm; by default all."""

    def __call__(self, console: Console) -> None:
        """Run or resume the search, and write theta with the policy found so far."""
        from celo2.meta.policy_search import PolicySearch, search
        from celo2.meta.policy_tasks import TASKS
        from celo2.provenance import provenance
        from celo2.theta import load_theta

        names = tuple(TASKS) if self.tasks is None else self.tasks
        unknown = sorted(set(names) - set(TASKS))
        if unknown:
            raise InputError(f"tasks has {unknown[0]!r}; take some of {', '.join(TASKS)}")
        theta = load_theta(self.theta)
        config = PolicySearch(
            population=self.population, generations=self.generations, seed=self.seed
        )
        tasks = {name: TASKS[name]() for name in names}
        path = self.out / "theta.safetensors"
        with progress(console, "compiling", self.generations) as update:
            for generation in search(config, theta, tasks, self.out):
                settings = dataclasses.asdict(config) | {"horizons": list(config.horizons)}
                made = {"search": settings, "tasks": list(names), **provenance("jax", "evosax")}
                recorded = {**theta.provenance, "policy": made}
                found = dataclasses.replace(theta, policy=generation.policy, provenance=recorded)
                found.save(path)
                shown = f"log of loss over AdamW's {generation.mean:+.3f}"
                update(completed=generation.number + 1, description=shown)
        console.print(f"theta with its policy in {path}", soft_wrap=True)
        console.print(str(load_theta(path).required_policy().numbers()), soft_wrap=True)
