"""Protects the one configuration and its speed-up: chosen on validation alone; handmade runs."""

import math

import pytest

from celo2 import InputError
from celo2.evaluate.baselines import ADAMW, Baseline, Grid
from celo2.evaluate.ladder import recorded_ladder, run_carried
from celo2.evaluate.records import Records
from celo2.evaluate.runs import RecordedLoss
from celo2.evaluate.scores import Score, run_of
from celo2.evaluate.single import Configuration, choose, recorded_lengths, run_lengths, speed_ups
from celo2.evaluate.suites import LADDER, VALIDATION, Problem
from tests.families import Quadratic

GRID = Grid((0.1, 0.2, 0.4), ({"x": 1.0}, {"x": 2.0}))
MINE = Baseline("mine", lambda settings, steps: None, GRID)


def recorded(path, loss, longer=(1, 10)):
    """Record every validation problem on the whole grid."""
    records = Records(path)
    for problem, entry in VALIDATION.items():
        for times in longer:
            for other in GRID.others:
                for rate in GRID.learning_rates:
                    settings = {"learning_rate": rate, **other}
                    run = run_of(problem, times * entry.steps, MINE, settings, 0)
                    records.add(run, {"loss": loss(problem, times, settings)})
    return records


def parabola(problem, times, settings):
    """Best at a learning rate of 0.4 for the short runs and of 0.1 for those ten times longer."""
    best = 0.4 if times == 1 else 0.1
    penalty = 0.1 if settings["x"] == 1.0 else 0.0
    return 1 + penalty + abs(math.log2(settings["learning_rate"] / best))


def test_the_learning_rate_is_a_power_law_through_the_best_of_each_length(tmp_path):
    found = choose(recorded(tmp_path / "runs.jsonl", parabola), MINE)
    assert found.others == {"x": 2.0}
    assert found.learning_rates == {400: 0.4, 4000: 0.1}
    assert found.exponent == pytest.approx(math.log10(4))
    assert found.settings(400 * 10**0.5) == {"learning_rate": 0.2, "x": 2.0}
    assert found.settings(40)["learning_rate"] == pytest.approx(1.6)


def test_runs_with_another_setting_are_no_runs_of_the_configuration(tmp_path):
    """Weight decay, which a search within a number of runs tries too."""
    records = recorded(tmp_path / "runs.jsonl", parabola, (1,))
    for name, entry in VALIDATION.items():
        settings = {"learning_rate": 0.8, "x": 2.0, "weight_decay": 0.1}
        records.add(run_of(name, entry.steps, MINE, settings, 0), {"loss": 1e-3})
    assert choose(records, MINE).settings(400) == {"learning_rate": 0.4, "x": 2.0}


def test_of_one_length_alone_the_learning_rate_is_the_same_for_all(tmp_path):
    found = choose(recorded(tmp_path / "runs.jsonl", parabola, (1,)), MINE)
    assert found.settings(100) == found.settings(4000) == {"learning_rate": 0.4, "x": 2.0}


def test_the_configuration_is_best_over_all_problems_and_no_favorite_of_one(tmp_path):
    """0.4 wins four problems by 1 % and loses one by half."""

    def loss(problem, times, settings):
        if settings["learning_rate"] == 0.1:
            return 5.0
        if problem == "byte-lstm":
            return 3.0 if settings["learning_rate"] == 0.4 else 2.0
        return 1.0 if settings["learning_rate"] == 0.4 else 1.01

    found = choose(recorded(tmp_path / "runs.jsonl", loss, (1,)), MINE)
    assert found.settings(400)["learning_rate"] == 0.2


def test_what_was_not_run_on_all_problems_is_refused_and_what_has_no_learning_rate_is_taken(
    tmp_path,
):
    records = Records(tmp_path / "runs.jsonl")
    with pytest.raises(InputError, match="run: celo2 validate --optimizers mine --out"):
        choose(records, MINE)
    free = Baseline("free", lambda settings, steps: None, Grid())
    assert choose(records, free).settings(123) == {}


def test_the_ladder_runs_at_the_settings_of_its_first_rung(tmp_path):
    records = Records(tmp_path / "runs.jsonl")
    first, second = list(LADDER)[:2]
    for rate, loss in ((0.1, 3.0), (0.2, 2.0), (0.4, 4.0)):
        run = run_of(first, LADDER[first].steps, MINE, {"learning_rate": rate}, 0)
        records.add(run, {"loss": loss})
    records.add(run_of(first, LADDER[first].steps, MINE, {"learning_rate": 0.2}, 1), {"loss": 2.5})

    def train(problem, baseline, settings, seed):
        return {"loss": 10 * settings["learning_rate"]}

    problems = {name: Problem(name, Quadratic, LADDER[name].steps) for name in (first, second)}
    loss = RecordedLoss(records, problems[second], MINE, train)
    assert run_carried(loss, problems[first], (1,)) == Score({"learning_rate": 0.2}, {1: 2.0})
    found = recorded_ladder(records, {"mine": MINE}, (1,))
    assert [found[name]["mine"].losses for name in (first, second)] == [{1: 2.5}, {1: 2.0}]
    with pytest.raises(InputError, match=f"has no tuned mine on {second}; tune it first"):
        run_carried(loss, problems[second], (1,))


def lengths_of(tmp_path, losses, target=2.0):
    """Run one configuration where a run of so many steps has that loss."""
    records = Records(tmp_path / "runs.jsonl")
    tuned = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.999}
    for seed in (0, 1, 2):
        records.add(run_of("tiny", 120, ADAMW, tuned, seed), {"loss": target})

    def train(problem, baseline, settings, seed):
        return {"loss": losses[problem.steps]}

    loss = RecordedLoss(records, Problem("tiny", Quadratic, 120), MINE, train)
    configuration = Configuration({}, {120: 0.1})
    scores = run_lengths(loss, configuration, (1, 2))
    again = recorded_lengths(records, "tiny", 120, MINE, configuration, (1, 2))
    assert again == scores
    return speed_ups(scores, Score(tuned, {1: target, 2: target}), 120), sorted(scores)


def test_shorter_runs_are_made_until_one_misses_the_target(tmp_path):
    """80 and 60 steps reach it, 40 do not: interpolated halfway between, in log(steps)."""
    (speeds, bound), lengths = lengths_of(tmp_path, {120: 1.0, 80: 1.5, 60: 1.9, 40: 2.1})
    assert lengths == [40, 60, 80, 120]
    assert speeds == pytest.approx([120 / (40 * 60) ** 0.5] * 2)
    assert not bound


def test_who_reaches_the_target_in_a_quarter_has_a_speed_up_of_at_least_four(tmp_path):
    (speeds, bound), _ = lengths_of(tmp_path, dict.fromkeys((120, 80, 60, 40, 30), 1.0))
    assert (speeds, bound) == ([4.0, 4.0], True)


def test_who_misses_the_target_is_given_more_steps(tmp_path):
    (speeds, bound), lengths = lengths_of(tmp_path, {120: 2.2, 180: 2.1, 240: 1.9})
    assert lengths == [120, 180, 240]
    assert speeds == pytest.approx([120 / (180 * 240) ** 0.5] * 2)
    assert not bound


def test_speed_ups_need_tuned_adamw(tmp_path):
    loss = RecordedLoss(
        Records(tmp_path / "runs.jsonl"), Problem("tiny", Quadratic, 120), MINE, None
    )
    with pytest.raises(InputError, match=r"no tuned AdamW on tiny.*celo2 bench --optimizers adamw"):
        run_lengths(loss, Configuration({}, {120: 0.1}), (1,))
