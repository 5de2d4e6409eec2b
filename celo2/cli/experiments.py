"""The search for the recipe: one JSON file an experiment, with its question, its configuration, and in the end its scores."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Column, Table

from celo2.cli.meta_train import train_theta
from celo2.errors import InputError
from celo2.evaluate.tune import Contender, screen
from celo2.meta.config import MetaConfig, from_settings
from celo2.theta import load_theta

MUON = {
    "byte-transformer": (1.8590, 1.8419, 1.8587),
    "cifar10-conv": (1.3130, 1.3500, 1.3290),
    "fashion-mlp": (0.3440, 0.3517, 0.3612),
    "mnist-autoencoder": (0.1022, 0.1022, 0.1019),
    "byte-lstm": (1.6680, 1.6563, 1.6743),
}
"""Held-out losses of the better tuned baseline, Muon on all five, for seeds 0, 1, 2: in records/validation/runs.jsonl."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One file of the folder."""

    name: str
    question: str
    settings: Mapping[str, Any] | None
    """What differs from `MetaConfig()`, by dotted names; None for a theta that was not trained for this."""
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Minutes, identity of theta, and held-out losses over seeds by problem; empty while it was not run."""
    patch: str | None = None
    """Change of the rule that it was run with, where no setting makes it: a file to apply by git."""

    @property
    def config(self) -> MetaConfig:
        """The whole configuration.

        Raises:
            InputError: there is none.
        """
        if self.settings is None:
            raise InputError(f"the theta of {self.name} was not trained for it, so it cannot be run; its result is recorded")
        if self.patch is not None:
            raise InputError(
                f"{self.name} is of another rule; git apply {self.patch}, and run a copy of its file without patch"
            )
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
        scores = screen(Contender(experiment.name, "celo2", theta), folder)
    minutes = load_theta(runs / experiment.name / "theta.safetensors").provenance["minutes"]
    result = {"minutes": minutes, "theta": theta.identity, "losses": {p: list(s.losses) for p, s in scores.items()}}
    done = dataclasses.replace(experiment, result=result)
    content = {"question": done.question, "settings": done.settings, "result": result}
    path = folder / f"{experiment.name}.json"
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)
    return done


def table(experiments: Sequence[Experiment]) -> Group:
    """Ratios of held-out losses to those of tuned Muon on the same seeds, the lowest mean first; then what each asks.

    A cell ends with the number of its seeds where they are fewer than three; a mean is of all five problems or none.
    """
    numbers = [Column(problem.replace("-", " "), overflow="fold", justify="right") for problem in MUON]
    scores = Table(
        Column("experiment", no_wrap=True),
        *numbers,
        Column("mean", min_width=6),
        "min",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    asks = Table(Column("experiment", no_wrap=True), "asks", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for e in sorted(experiments, key=_mean):
        losses = e.result.get("losses", {})
        few = {p: f" ({len(seeds)})" if len(seeds) < 3 else "" for p, seeds in losses.items()}
        cells = [f"{ratio:.3f}{few[p]}" if (ratio := _ratios(e).get(p)) else "" for p in MUON]
        mean = f"{_mean(e):.4f}" if _mean(e) < math.inf else ""
        scores.add_row(e.name, *cells, mean, str(e.result.get("minutes", "")))
        asks.add_row(e.name, e.question)
    return Group(scores, "held-out loss over that of Muon, tuned; three seeds\n", asks)


def _ratios(experiment: Experiment) -> dict[str, float]:
    """To Muon on as many seeds, by problem."""
    losses = experiment.result.get("losses", {})
    return {p: sum(seeds) / sum(MUON[p][: len(seeds)]) for p, seeds in losses.items()}


def _mean(experiment: Experiment) -> float:
    """Of the ratios; infinite unless there are all five."""
    ratios = _ratios(experiment)
    return sum(ratios.values()) / len(MUON) if set(ratios) == set(MUON) else math.inf
