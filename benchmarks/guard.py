"""How often the guard acts on real problems, and what it does to the loss.

    python -m benchmarks.guard

Each run is recorded in records/guard/runs.jsonl and not repeated; `celo2 report` makes the table.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import tyro

from celo2.evaluate.baselines import celo2
from celo2.evaluate.guard_table import KAPPAS, NONE, RECORDS
from celo2.evaluate.records import Records
from celo2.evaluate.runs import RecordedLoss
from celo2.evaluate.suites import VALIDATION, problem
from celo2.theta import Theta, load_theta

RANDOM = Theta.random(0)
"""As meta-training starts: a bad theta."""
LEARNING_RATES = {"celo2": 4e-3, "celo2-base": 1e-3, "random": 4e-3}
"""Of thetas, the same on all problems; AdamW's multiplier is the problem's."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Train under thetas, good and bad, with and without guards."""

    problems: tuple[str, ...] = tuple(VALIDATION)
    """Of the validation suite."""
    thetas: tuple[str, ...] = tuple(LEARNING_RATES)
    """Names of shipped thetas, or random."""
    guards: tuple[float, ...] = (NONE, *KAPPAS)
    """Least cosines."""
    seeds: tuple[int, ...] = (1,)
    """Of weights and batches."""
    steps: int = 200
    """Per run."""
    out: Path = Path(RECORDS)
    """Records."""


def main(config: Config) -> None:
    """Make the runs that are not recorded yet, those of one compiled program in turn."""
    records = Records(config.out)
    for problem_name, theta_name in itertools.product(config.problems, config.thetas):
        theta = RANDOM if theta_name == "random" else load_theta(theta_name)
        loss = RecordedLoss(records, problem(problem_name), celo2(theta)).at(config.steps)
        multiplier = VALIDATION[problem_name].adamw_lr_multiplier
        plain = {"learning_rate": LEARNING_RATES[theta_name], "adamw_lr_multiplier": multiplier}
        for kappa, seed in itertools.product(config.guards, config.seeds):
            found = loss({**plain, "guard": kappa}, seed)
            print(problem_name, theta_name, f"guard {kappa}, seed {seed}: {found:.4f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
