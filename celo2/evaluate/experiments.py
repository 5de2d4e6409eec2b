"""The experiments of the search for the recipe: one JSON file each, and how they are scored."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celo2.errors import InputError
from celo2.evaluate.baselines import MUON
from celo2.evaluate.records import Records
from celo2.evaluate.scores import Score, recorded_score
from celo2.evaluate.screen import SCREENING_SEEDS
from celo2.evaluate.suites import VALIDATION
from celo2.files import write_json


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One file of the folder; names begin with a number, so that they sort in order of time."""

    name: str
    question: str
    settings: Mapping[str, Any] | None
    """What differs from `MetaConfig()`, by dotted names; None for a theta not trained for this."""
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Minutes, identity of theta, held-out losses over the screening seeds by problem, provenance;
    empty until it was run."""
    answer: str = ""
    """What was learned from it, in a sentence; empty until someone has looked at the result."""
    patch: Mapping[str, str] | None = None
    """A change of the rule that it was run with, where no setting makes it: `file`, a patch, and
    `commit`, to which it applies."""

    def settings_to_run(self) -> Mapping[str, Any]:
        """Return the settings.

        Raises:
            InputError: it cannot be run from its settings alone.
        """
        if self.settings is None:
            raise InputError(
                f"the theta of {self.name} was not trained for it, so it cannot be run; "
                "its result is recorded"
            )
        if self.patch is not None:
            file, commit = self.patch["file"], self.patch["commit"]
            raise InputError(
                f"{self.name} is of another rule; check out {commit}, git apply {file}, "
                "and run it there"
            )
        return self.settings


def read(folder: Path) -> dict[str, Experiment]:
    """Return all experiments of a folder, in order of time.

    Raises:
        InputError: no such folder, or a file that is no experiment.
    """
    paths = sorted(folder.glob("*.json"), key=lambda path: path.stem)
    if not paths:
        raise InputError(
            f"folder {folder} holds no experiments; run from a checkout, or give another"
        )
    return {path.stem: _read(path) for path in paths}


def write(experiment: Experiment, folder: Path) -> None:
    """Write the experiment's file."""
    content: dict[str, Any] = {"question": experiment.question}
    if experiment.answer:
        content["answer"] = experiment.answer
    content["settings"] = experiment.settings
    if experiment.patch is not None:
        content["patch"] = experiment.patch
    write_json(folder / f"{experiment.name}.json", {**content, "result": experiment.result})


def muon_scores(path: Path) -> dict[str, Score]:
    """Return tuned Muon's scores on the screening seeds, from the recorded runs in `path`.

    Raises:
        InputError: they are not recorded.
    """
    records, scores = Records(path), {}
    for name, entry in VALIDATION.items():
        score = recorded_score(records, name, entry.steps, MUON, SCREENING_SEEDS)
        if score is None:
            raise InputError(f"{path} holds no runs of Muon on {name}; give the recorded runs")
        scores[name] = score
    return scores


def ratios(experiment: Experiment, muon: Mapping[str, Score]) -> dict[str, float]:
    """Return held-out losses over Muon's on the same seeds, by problem."""
    found = {}
    for problem, losses in experiment.result.get("losses", {}).items():
        seeds = SCREENING_SEEDS[: len(losses)]
        found[problem] = sum(losses) / sum(muon[problem].losses[seed] for seed in seeds)
    return found


def mean_ratio(ratios: Mapping[str, float]) -> float:
    """Return the mean over the validation problems; infinite unless there are all."""
    if set(ratios) != set(VALIDATION):
        return math.inf
    return sum(ratios.values()) / len(VALIDATION)


def _read(path: Path) -> Experiment:
    needs = "it needs question, settings, and perhaps answer and result"
    try:
        experiment = Experiment(path.stem, **json.loads(path.read_bytes().decode()))
    except (ValueError, TypeError) as error:  # not UTF-8, not JSON, other fields
        raise InputError(f"{path} is no experiment ({error}); {needs}") from error
    losses = experiment.result.get("losses", {})
    unknown = [name for name in losses if name not in VALIDATION]
    if unknown:
        known = ", ".join(VALIDATION)
        raise InputError(f"{path} has losses of {unknown[0]!r}; the problems are {known}")
    return experiment
