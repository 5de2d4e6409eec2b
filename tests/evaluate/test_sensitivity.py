"""Protects sensitivity: one setting is changed at a time, and bands are as wide as by hand."""

import math

import pytest

from celo2 import InputError
from celo2.evaluate.baselines import ADAMW, MUON
from celo2.evaluate.records import Records
from celo2.evaluate.runs import RecordedLoss
from celo2.evaluate.scores import run_of
from celo2.evaluate.sensitivity import band, recorded_sweeps, run_sweeps, sweeps
from celo2.evaluate.suites import Problem
from tests.families import Quadratic

TUNED = {"learning_rate": 0.01, "b1": 0.9, "b2": 0.999}


def test_a_band_ends_where_the_loss_passes_102_percent_of_the_best():
    """From 1.00 to 1.04 over an octave, 1.02 is half an octave away; the other end is steeper."""
    low, high = band({0.5: 1.08, 1.0: 1.0, 2.0: 1.04, 4.0: 1.5})
    assert low == pytest.approx(2**-0.25)
    assert high == pytest.approx(2**0.5)


def test_a_band_stops_at_what_diverged_and_at_the_end_of_the_sweep():
    assert band({0.5: 1.01, 1.0: 1.0, 2.0: math.inf}) == (0.5, 1.0)


def test_one_setting_is_changed_and_the_others_stay():
    found = sweeps(ADAMW, TUNED)
    rates = sorted(found["learning_rate"])
    assert math.log10(rates[-1] / rates[0]) > 3.5
    assert all({**s, "learning_rate": 0.01} == TUNED for s in found["learning_rate"].values())
    assert found["weight_decay"][0.0] == TUNED, "the default has no entry, as in the tuned runs"
    assert found["weight_decay"][0.1] == {**TUNED, "weight_decay": 0.1}
    assert "adamw_lr_multiplier" not in found
    assert "adamw_lr_multiplier" in sweeps(MUON, {"learning_rate": 1, "adamw_lr_multiplier": 5})


def test_sweeps_go_around_the_tuned_settings_and_are_found_in_the_records(tmp_path):
    records = Records(tmp_path / "runs.jsonl")

    def train(problem, baseline, settings, seed):
        return {"loss": 1 + abs(math.log2(settings["learning_rate"] / 0.01))}

    loss = RecordedLoss(records, Problem("tiny", Quadratic, 30), ADAMW, train)
    with pytest.raises(InputError, match="has no tuned adamw on tiny; tune it first"):
        run_sweeps(loss, ("learning_rate",), (1,))
    for seed in (0, 1):
        records.add(run_of("tiny", 30, ADAMW, TUNED, seed), {"loss": 1.0})
    for learning_rate in (0.005, 0.02):
        loss({**TUNED, "learning_rate": learning_rate}, 1)
    assert recorded_sweeps(records, "tiny", 30, ADAMW, (1,)) == {}, "three values are no sweep"
    curves = run_sweeps(loss, ("learning_rate",), (1,))
    assert curves["learning_rate"][0.04] == 3.0
    assert recorded_sweeps(records, "tiny", 30, ADAMW, (1,)) == curves
