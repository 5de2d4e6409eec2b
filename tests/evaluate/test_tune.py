"""Protects scores: every optimizer is tuned alike, on another seed than it is reported on."""

import json
import math
import pickle

import numpy as np
import pytest

from celo2 import load_theta
from celo2.evaluate.baselines import ADAMW, MUON, Grid, celo2
from celo2.evaluate.records import Records
from celo2.evaluate.runs import RecordedLoss, make, score
from celo2.evaluate.scores import Score, ratio, recorded_score, relative
from celo2.evaluate.suites import Problem
from celo2.evaluate.tune import search_coordinates, tune
from tests.families import Quadratic

TINY, FAILING = Problem("tiny", Quadratic, 30), Problem("failing", Quadratic, 31)
SETTINGS = {"learning_rate": 0.05, "b1": 0.9, "b2": 0.95}


@pytest.mark.parametrize("best", [0.1, 0.4, 1.6])
def test_a_grid_is_extended_until_the_best_is_interior(best):
    asked = []

    def parabola(settings, seed):
        asked.append(settings["learning_rate"])
        return math.log2(settings["learning_rate"] / best) ** 2 + settings["x"] + seed

    score = tune(parabola, Grid((0.2, 0.4), ({"x": 0.5}, {"x": 0.25})), seeds=(1, 2))
    assert score.settings == {"learning_rate": best, "x": 0.25}
    assert score.losses == {1: 1.25, 2: 2.25}
    assert {best / 2, best * 2} <= set(asked)


def bowl(best):
    """Return a loss that is 1 at `best` and grows with the octaves to it; and the runs asked."""
    asked = []

    def loss(settings, seed):
        assert seed == 0
        asked.append(dict(settings))
        found = 1 + math.log2(settings["learning_rate"] / best["learning_rate"]) ** 2
        found += abs(math.log2((1 - settings["momentum"]) / (1 - best["momentum"])))
        found += abs(math.log2(settings["multiplier"] / best["multiplier"]))
        return found + 10 * settings.get("weight_decay", 0.0)

    return loss, asked


BOWL = Grid(
    (0.1, 0.2, 0.4),
    tuple({"momentum": m, "multiplier": k} for m in (0.9, 0.95) for k in (5.0, 20.0)),
)


@pytest.mark.parametrize(
    "best",
    [
        {"learning_rate": 0.2, "momentum": 0.9, "multiplier": 5.0},  # where it starts
        {"learning_rate": 0.8, "momentum": 0.95, "multiplier": 20.0},
        {"learning_rate": 0.05, "momentum": 0.8, "multiplier": 2.5},  # beyond the grid on all sides
        {"learning_rate": 0.2, "momentum": 0.975, "multiplier": 40.0},
    ],
)
def test_a_search_by_coordinates_finds_the_best_inside_and_beyond_the_grid(best):
    loss, asked = bowl(best)
    assert search_coordinates(loss, BOWL, 40) == best
    assert len(asked) < 40, "it stops where nothing helps"
    assert len({json.dumps(s, sort_keys=True) for s in asked}) == len(asked), "none is run twice"


@pytest.mark.parametrize("runs", [1, 2, 5, 7])
def test_a_search_makes_as_many_runs_as_it_may_and_returns_the_best_of_them(runs):
    loss, asked = bowl({"learning_rate": 3.2, "momentum": 0.95, "multiplier": 20.0})
    found = search_coordinates(loss, BOWL, runs)
    assert len(asked) == runs
    losses = [loss(settings, 0) for settings in list(asked)]
    assert loss(found, 0) == min(losses)


def test_a_search_goes_down_from_learning_rates_that_diverge():
    def loss(settings, seed):
        return math.inf if settings["learning_rate"] > 0.02 else settings["learning_rate"] ** -1

    assert search_coordinates(loss, Grid((0.1, 0.2, 0.4)), 10)["learning_rate"] == 0.2 / 16
    assert search_coordinates(lambda s, seed: math.inf, Grid((0.1, 0.2, 0.4)), 5)


def test_settings_are_chosen_on_seed_0_and_reported_on_seeds_1_to_3():
    """A setting that is lucky on seed 0 alone shows it."""

    def lucky(settings, seed):
        return 0.0 if (settings["learning_rate"], seed) == (0.2, 0) else 1.0 + seed

    score = tune(lucky, Grid((0.1, 0.2, 0.4), ({},)))
    assert score.settings == {"learning_rate": 0.2}
    assert score.losses == {1: 2.0, 2: 3.0, 3: 4.0}


def test_an_optimizer_that_always_diverges_is_scored_infinite():
    score = tune(lambda settings, seed: math.inf, Grid((0.1, 0.2), ({"x": 1.0},)), (1,))
    assert score.mean == math.inf


def test_finished_runs_are_not_repeated_and_a_cut_line_is_run_again(tmp_path):
    path = tmp_path / "runs.jsonl"
    runs = []

    def counted(problem, baseline, settings, seed):
        runs.append(seed)
        return {"loss": 0.5 + seed, "train_loss": 1.0}

    def loss(seed):
        return RecordedLoss(Records(path), TINY, ADAMW, counted)(SETTINGS, seed)

    assert (loss(0), loss(0), loss(1)) == (0.5, 0.5, 1.5)
    assert runs == [0, 1]
    record = json.loads(path.read_text().splitlines()[0])
    run = {"problem": "tiny", "steps": 30, "optimizer": "adamw", "theta": None}
    assert record["run"] == {**run, "settings": SETTINGS, "seed": 0}
    found = {"run", "loss", "train_loss", "diverged", "commit", "date", "versions"}
    assert set(record) == found
    path.write_bytes(path.read_bytes()[:-20])
    assert (loss(0), loss(1)) == (0.5, 1.5)
    assert runs == [0, 1, 1]


def test_runs_that_are_known_are_made_at_once_where_that_is_asked_for(tmp_path):
    """Those that are recorded are left out; only runs of the same settings fit together."""

    def refuse(problem, baseline, settings, seed):
        raise AssertionError("it was to be made beside others")

    path = tmp_path / "runs.jsonl"
    runs = [({**SETTINGS, "learning_rate": rate}, seed) for rate in (0.1, 0.2) for seed in (1, 2)]
    runs.append(({**SETTINGS, "weight_decay": 0.1}, 1))
    RecordedLoss(Records(path), TINY, ADAMW)(*runs[0])
    loss = RecordedLoss(Records(path), TINY, ADAMW, refuse, side_by_side=2)
    make(loss, runs)
    sizes = [json.loads(line).get("side_by_side") for line in path.read_text().splitlines()]
    assert sizes == [None, 2, 2, 1, 1]
    losses = [loss(*run) for run in runs]
    assert len(set(losses)) == 5
    alone = RecordedLoss(Records(tmp_path / "alone.jsonl"), TINY, ADAMW)
    make(alone, runs)
    assert not alone.records.path.exists(), "a CPU makes one after the other"
    np.testing.assert_allclose(losses, [alone(*run) for run in runs], rtol=1e-4)


def test_what_fails_beside_others_is_made_alone(tmp_path, monkeypatch):
    def fail(self, params, state, task, key):
        raise ValueError("no such batch")

    monkeypatch.setattr(Quadratic, "loss", fail)
    loss = RecordedLoss(Records(tmp_path / "runs.jsonl"), FAILING, ADAMW, side_by_side=2)
    make(loss, [(SETTINGS, 1), (SETTINGS, 2)])
    assert score(loss, SETTINGS, (1, 2)).losses == {1: math.inf, 2: math.inf}
    assert all(record["error"] == "ValueError: no such batch" for record in loss.records)


def test_a_diverged_run_is_infinitely_bad_and_recorded_as_null(tmp_path):
    path = tmp_path / "runs.jsonl"
    runs = []

    def diverge(problem, baseline, settings, seed):
        runs.append(seed)
        return {"loss": math.nan, "train_loss": 1.0}

    for _ in range(2):
        assert RecordedLoss(Records(path), TINY, ADAMW, diverge)(SETTINGS, 0) == math.inf
    assert runs == [0]
    assert json.loads(path.read_text())["loss"] is None


def test_a_score_from_records_is_that_of_the_runs(tmp_path):
    records = Records(tmp_path / "runs.jsonl")

    def parabola(problem, baseline, settings, seed):
        return {"loss": math.log2(settings["learning_rate"] / 0.4) ** 2 + seed, "train_loss": 0.0}

    grid = Grid((0.2, 0.4), ({"b1": 0.9, "b2": 0.95},))
    tuned = tune(RecordedLoss(records, TINY, ADAMW, parabola), grid, (1, 2))
    assert recorded_score(records, "tiny", 30, ADAMW) == tuned
    assert recorded_score(records, "tiny", 30, ADAMW, seeds=(2, 3)).losses == {2: 2.0}
    assert recorded_score(records, "tiny", 300, ADAMW) is None
    assert recorded_score(records, "tiny", 30, MUON) is None


def test_the_score_is_relative_to_the_better_baseline_of_each_problem():
    scores = {
        "AdamW": {"a": Score({}, {1: 2.0, 2: 4.0}), "b": Score({}, {1: 1.0})},
        "Muon": {"a": Score({}, {1: 2.0}), "b": Score({}, {1: 4.0})},
        "theta": {"a": Score({}, {1: 1.0}), "b": Score({}, {1: 2.0})},
    }
    assert relative(scores)["theta"] == {"a": 0.5, "b": 2.0}
    assert scores["AdamW"]["a"].deviation == pytest.approx(math.sqrt(2))


def test_a_ratio_is_over_the_seeds_that_both_have():
    assert ratio(Score({}, {1: 1.0, 2: 3.0}), Score({}, {1: 2.0, 2: 2.0, 3: 100.0})) == 1.0


@pytest.mark.parametrize("baseline", [ADAMW, MUON, celo2(load_theta("celo2"))])
def test_a_baseline_travels_to_another_process(baseline):
    there = pickle.loads(pickle.dumps(baseline))
    assert there == baseline
    assert there.identity == baseline.identity
