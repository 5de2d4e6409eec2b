"""Protects how agents are reported: Adam as it is published, and returns relative to its own."""

import jax.numpy as jnp
import numpy as np
import pytest

from celo2.cli.rl import RL
from celo2.evaluate.agents import ADAM, over_adam, published, recorded_table, returns, table
from celo2.evaluate.baselines import MUON, ppo_adam
from celo2.evaluate.records import Records
from celo2.evaluate.scores import Score, run_of
from celo2.evaluate.suites import RL as RL_SUITE

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
    found = table({ADAM: ADAMS, "Celo2": OTHERS})
    assert found.header == ("", "CartPole", "MinAtar Breakout", "over Adam's")
    assert found.rows[0][1] == "400.0 (400.0 to 400.0)"
    assert found.rows[0][2].startswith("4.5 (")
    assert found.rows[1][1:3] == ("500.0 (500.0 to 500.0)", "9.0 (9.0 to 9.0)")
    assert found.rows[1][3].startswith("1.62 (")


def test_recorded_runs_make_the_table(tmp_path):
    """The best settings on seed 0 count, and seeds that are missing are said to be."""
    records = Records(tmp_path / "records/rl/runs.jsonl")
    steps = RL_SUITE["asterix"].steps
    adam, settings = ppo_adam(5e-3), {"learning_rate": 5e-3}
    for seed in range(1, 9):
        records.add(run_of("asterix", steps, adam, settings, seed), {"loss": -2.0})
    for learning_rate, first, second in ((1e-3, -9.0, -3.0), (2e-3, -1.0, -50.0)):
        for seed, loss in ((0, first), (1, second)):
            settings = {"learning_rate": learning_rate}
            records.add(run_of("asterix", steps, MUON, settings, seed), {"loss": loss})
    assert recorded_table(tmp_path).rows == [
        (ADAM, "2.0 (2.0 to 2.0)", "1.00 (1.00 to 1.00)"),
        ("Muon", "3.0, 1 of 8 seeds", "1.50"),
    ]
