"""Protects the score of a search: what is tuned in it, and what is not."""

import dataclasses

import pytest

from celo2.evaluate.baselines import celo2, celo2_total_steps
from celo2.evaluate.records import Records
from celo2.evaluate.scores import run_of
from celo2.evaluate.screen import SCREENING_SEEDS, screen
from celo2.evaluate.suites import VALIDATION
from tests.cases import POLICY
from tests.cases import THETA as RULE

THETA = dataclasses.replace(RULE, policy=POLICY)


def record(path, baseline, settings, loss):
    """Record runs, so that none has to be made."""
    records = Records(path)
    for name, entry in VALIDATION.items():
        at = settings
        if "learning_rate" in settings:
            at = {**settings, "adamw_lr_multiplier": entry.adamw_lr_multiplier}
        for seed in SCREENING_SEEDS:
            run = run_of(name, entry.steps, baseline, at, seed)
            records.add(run, {"loss": loss + seed, "diverged": False})


def test_learning_rates_are_tuned(tmp_path):
    path, baseline = tmp_path / "runs.jsonl", celo2(THETA)
    for learning_rate, loss in ((1e-3, 3.0), (2e-3, 1.0), (4e-3, 2.0)):
        record(path, baseline, {"learning_rate": learning_rate}, loss)
    for score in screen(baseline, path).values():
        assert score.settings["learning_rate"] == 2e-3
        assert list(score.losses.values()) == pytest.approx([1.0, 2.0, 3.0])


def test_nothing_is_tuned_where_a_policy_sets_the_learning_rates(tmp_path):
    path, baseline = tmp_path / "runs.jsonl", celo2_total_steps(THETA)
    record(path, baseline, POLICY.numbers(), 5.0)
    for score in screen(baseline, path).values():
        assert score.settings == POLICY.numbers()
        assert list(score.losses.values()) == pytest.approx([5.0, 6.0, 7.0])
