"""Protects how agents are reported: Adam as it is published, and returns relative to its own."""

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from celo2.cli.rl import RL, table
from celo2.evaluate.agents import ADAM, over_adam, published, returns
from celo2.evaluate.baselines import ppo_adam
from celo2.evaluate.scores import Score
from celo2.evaluate.suites import problem

ADAMS = {
    "cartpole": Score({}, dict.fromkeys(range(1, 9), -400.0)),
    "breakout": Score({}, {seed: -float(seed) for seed in range(1, 9)}),  # on average 4.5
}
OTHERS = {
    "cartpole": Score({}, dict.fromkeys(range(1, 9), -500.0)),
    "breakout": Score({}, dict.fromkeys(range(1, 9), -9.0)),
}


def test_adam_clips_the_whole_gradient_and_falls_to_zero():
    """A gradient of norm 5 becomes one of 0.5; Adam's first step is g / (|g| + eps)."""
    transform = ppo_adam(0.1).build({"learning_rate": 0.1}, 2)
    params = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    state = transform.init(params)
    first, state = transform.update(params, state, params)
    np.testing.assert_allclose(first["a"], -0.1 * 0.3 / (0.3 + 1e-5), rtol=1e-5)
    np.testing.assert_allclose(first["b"], -0.1 * 0.4 / (0.4 + 1e-5), rtol=1e-5)
    second, _ = transform.update(params, state, params)
    np.testing.assert_allclose(second["a"], first["a"] / 2, rtol=1e-4)


def test_adam_runs_at_the_learning_rate_of_the_game(tmp_path):
    command = RL(games=("cartpole", "freeway"), out=tmp_path)
    units = published(command.comparison())
    rates = [unit.baseline.grid.others[0]["learning_rate"] for unit in units]
    assert [unit.problem.name for unit in units] == ["cartpole", "freeway"]
    assert rates == [2.5e-4, 5e-3]


def test_returns_are_relative_to_the_mean_of_adams_in_the_same_game():
    """500 / 400 and 9 / 4.5, eight of each: the middle half is four of either."""
    assert returns(OTHERS["cartpole"]) == [500.0] * 8
    assert over_adam(OTHERS, ADAMS).value == pytest.approx((1.25 + 2) / 2)


def test_the_table_shows_interquartile_means_with_intervals():
    console = Console(width=100, record=True)
    games = [problem(name) for name in ADAMS]
    console.print(table({ADAM: ADAMS, "Celo2": OTHERS}, games))
    shown = console.export_text()
    assert "500.0 (500.0 to 500.0)" in shown
    assert " 4.5 (" in shown
    assert "1.62 (1.62 to 1.62)" in shown
