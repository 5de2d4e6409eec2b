"""Protects what is said of many runs: means, intervals and speed-ups, against values by hand."""

import math

import pytest

from celo2.evaluate.intervals import geometric_mean, interquartile_mean, paired_ratios, steps_to
from celo2.evaluate.scores import Score


def test_a_geometric_mean_weighs_problems_alike():
    """sqrt(sqrt(1 * 4) * 8) = 4: two seeds of one problem, one of the other."""
    assert geometric_mean({"a": [1.0, 4.0], "b": [8.0]}).value == pytest.approx(4)


def test_the_interval_of_two_seeds_is_that_of_their_draws():
    """Means of two draws of {1, 4}: 1 and 4 with probability 1/4 each, so both are in 95 %."""
    mean = geometric_mean({"a": [1.0, 4.0]})
    assert (mean.value, mean.low, mean.high) == pytest.approx((2, 1, 4))


def test_seeds_are_drawn_within_their_problem():
    """Problems that differ a hundredfold, but not over seeds, leave no uncertainty."""
    mean = geometric_mean({"a": [0.1, 0.1, 0.1], "b": [10.0, 10.0, 10.0]})
    assert (mean.value, mean.low, mean.high) == pytest.approx((1, 1, 1))


def test_one_seed_gives_no_interval_and_a_diverged_run_no_mean():
    assert math.isnan(geometric_mean({"a": [2.0]}).low)
    assert geometric_mean({"a": [2.0, math.inf]}).value == math.inf


def test_ratios_are_paired_by_seed():
    mine, baseline = Score({}, {1: 2.0, 2: 9.0, 3: 1.0}), Score({}, {2: 3.0, 1: 4.0})
    assert paired_ratios(mine, baseline) == [0.5, 3.0]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (2.0, (400.0, False)),  # exactly reached by the longest
        (2.5, (200.0, False)),
        (2.25, (200 * 2**0.5, False)),  # halfway from 2.5 to 2.0 in loss: halfway in log(steps)
        (3.0, (100.0, True)),  # the shortest reaches it already
        (1.9, (400.0, True)),  # none does
    ],
)
def test_steps_are_interpolated_in_their_logarithm(target, expected):
    steps, bound = steps_to({100: 3.0, 200: 2.5, 400: 2.0}, target)
    assert (steps, bound) == (pytest.approx(expected[0]), expected[1])


def test_a_run_that_diverged_has_no_part_in_the_interpolation():
    assert steps_to({100: math.inf, 200: 2.0}, 2.5) == (200.0, False)


def test_an_interquartile_mean_is_that_of_the_middle_half():
    """Of eight runs the two lowest and the two highest do not count: (3 + 4 + 5 + 6) / 4."""
    mean = interquartile_mean([[0.0, 6.0, 4.0, 2.0, 1000.0, 5.0, 7.0, 3.0]])
    assert mean.value == pytest.approx(4.5)
    assert 2 < mean.low < 4.5 < mean.high


def test_the_middle_half_is_that_of_all_problems_together():
    mean = interquartile_mean([[0.0, 1.0], [1.0, 2.0], [3.0, 3.0], [9.0, 9.0]])
    assert mean.value == pytest.approx((1 + 2 + 3 + 3) / 4)
    spread = interquartile_mean([[1.0, 1.0], [3.0, 3.0]])
    assert (spread.value, spread.low, spread.high) == pytest.approx((2, 2, 2))
