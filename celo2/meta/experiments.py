"""The search for the recipe: one JSON file an experiment, with its question, its configuration, and in the end its scores."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from celo2.bench.validation import Contender, screen
from celo2.errors import InputError
from celo2.meta.command import train_theta
from celo2.meta.config import MetaConfig, from_settings
from celo2.theta import load_theta

MUON = {
    "byte-transformer": 1.8532,
    "cifar10-conv": 1.3307,
    "fashion-mlp": 0.3523,
    "mnist-autoencoder": 0.1021,
    "byte-lstm": 1.6662,
}
"""Held-out loss of the better tuned baseline, Muon on all five: printed by `celo2 validate`."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One file of the folder."""

    name: str
    question: str
    settings: Mapping[str, Any] | None
    """What differs from `MetaConfig()`, by dotted names; None for a theta that was not trained for this."""
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Minutes, identity of theta, and held-out losses over seeds by problem; empty while it was not run."""

    @property
    def config(self) -> MetaConfig:
        """The whole configuration.

        Raises:
            InputError: there is none.
        """
        if self.settings is None:
            raise InputError(f"the theta of {self.name} was not trained for it, so it cannot be run; its result is recorded")
        return from_settings(self.settings)


def read(folder: Path) -> dict[str, Experiment]:
    """All experiments of a folder, in the order of their names.

    Raises:
        InputError: no such folder, or a file that is no experiment.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise InputError(f"{folder} holds no experiments; run from a checkout, or give --folder")
    found = {}
    for path in paths:
        try:
            found[path.stem] = Experiment(path.stem, **json.loads(path.read_text()))
        except (json.JSONDecodeError, TypeError) as error:
            raise InputError(f"{path} is no experiment ({error}); it needs question, settings and perhaps result") from error
    return found


def run(experiment: Experiment, folder: Path, runs: Path, console: Console) -> Experiment:
    """Train (or go on training), score by screening, and write the result into the experiment's file."""
    theta = train_theta(experiment.name, experiment.config, runs / experiment.name, console)
    with console.status(f"screening {experiment.name}"):
        scores = screen(Contender(experiment.name, "celo2", theta), runs)
    minutes = load_theta(runs / experiment.name / "theta.safetensors").provenance["minutes"]
    result = {"minutes": minutes, "theta": theta.identity, "losses": {p: list(s.losses) for p, s in scores.items()}}
    done = dataclasses.replace(experiment, result=result)
    content = {"question": done.question, "settings": done.settings, "result": result}
    path = folder / f"{experiment.name}.json"
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)
    return done


def table(experiments: Sequence[Experiment]) -> Table:
    """Ratios of held-out losses (mean over seeds) to those of tuned Muon, the lowest mean first."""
    out = Table("experiment", "asks", "minutes", *MUON, "mean", caption="held-out loss over that of Muon, tuned; three seeds")
    rows = []
    for e in experiments:
        if e.result:
            ratios = {p: sum(losses) / len(losses) / MUON[p] for p, losses in e.result["losses"].items()}
            rows.append((sum(ratios.values()) / len(ratios), e, ratios))
    for mean, e, ratios in sorted(rows, key=lambda row: row[0]):
        minutes = str(e.result.get("minutes", ""))
        out.add_row(e.name, e.question, minutes, *(f"{ratios[p]:.3f}" for p in MUON), f"{mean:.4f}")
    return out
