"""Protects runs: each is the plain training loop, and thetas share one compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo2 import Theta, load_theta
from celo2.evaluate.baselines import ADAMW, MUON, celo2, schedule
from celo2.evaluate.suites import Problem
from celo2.evaluate.train import train, train_side_by_side
from tests.families import Quadratic

pytestmark = pytest.mark.slow

STEPS = 30
TINY = Problem("tiny", Quadratic, STEPS)


def test_a_run_is_the_plain_loop():
    """The compiled run against optax's AdamW step by step."""
    settings = {"learning_rate": 0.05, "b1": 0.9, "b2": 0.95}
    result = train(TINY, ADAMW, settings, seed=3)

    task_key, params_key, batch_key = jax.random.split(jax.random.key(3), 3)
    family = TINY.family
    task = family.sample(task_key)
    params, _ = family.init(params_key, task)
    adamw = optax.adamw(schedule({"learning_rate": 0.05}, STEPS), b1=0.9, b2=0.95, weight_decay=0.0)
    state, losses = adamw.init(params), []
    for key in jax.random.split(batch_key, STEPS):
        (loss, _), grads = jax.value_and_grad(family.loss, has_aux=True)(params, (), task, key)
        updates, state = adamw.update(grads, state, params)
        params, losses = optax.apply_updates(params, updates), [*losses, loss]
    keys = jax.random.split(jax.random.key(2**31 - 1), TINY.held_out_batches)
    expected = np.mean([family.evaluate(params, (), task, key)["loss"] for key in keys])
    np.testing.assert_allclose(result["loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(result["train_loss"], np.mean(losses[-3:]), rtol=1e-4)


def test_thetas_share_one_compiled_program():
    """Two thetas, one compilation, two results; and each as if it had been compiled in."""
    settings = {"learning_rate": 0.05, "adamw_lr_multiplier": 5.0}
    thetas = load_theta("celo2"), Theta.random(5)
    results = [train(TINY, celo2(theta), settings, 0) for theta in thetas]
    assert results[0]["compile_seconds"] > results[1]["compile_seconds"] < 0.1
    assert results[0]["loss"] != results[1]["loss"]
    params = {"w": jnp.ones((4, 3))}
    compiled_in = celo2(thetas[1]).build(settings, STEPS)
    handed_over = celo2(thetas[0]).build(settings, STEPS)
    one, _ = compiled_in.update(params, compiled_in.init(params), params)
    state = handed_over.init(params)
    other, _ = handed_over.update(params, state, params, weights=thetas[1].weights)
    np.testing.assert_allclose(one["w"], other["w"], rtol=1e-6)


@pytest.mark.parametrize("baseline", [ADAMW, celo2(load_theta("celo2"))])
def test_runs_side_by_side_are_those_of_their_own(baseline):
    """Seeds and settings are those of each; data and learned numbers are shared."""
    runs = [({**baseline.grid.settings[0], "learning_rate": 0.02 + 0.03 * i}, i) for i in range(3)]
    together = train_side_by_side(TINY, baseline, runs)
    for (settings, seed), found in zip(runs, together, strict=True):
        alone = train(TINY, baseline, settings, seed)
        assert found.pop("side_by_side") == 3
        assert set(found) == set(alone)
        for name in ("loss", "train_loss", "curve"):
            np.testing.assert_allclose(found[name], alone[name], rtol=1e-4, err_msg=name)
        for name in ("parameters", "state_bytes", "counts", "metrics"):
            assert found[name] == alone[name], name
    assert len({found["loss"] for found in together}) == 3


def test_muons_update_has_an_rms_of_1_as_celo2s_has():
    """Of a hidden matrix; Muon's five iterations leave singular values within 0.7 and 1.2."""
    params = {"hidden": jax.random.normal(jax.random.key(0), (64, 128))}
    settings = {"learning_rate": 0.01, "adamw_lr_multiplier": 5.0, "momentum": 0.9}
    for baseline in (MUON, celo2(load_theta("celo2"))):
        transform = baseline.build(settings, 1)
        updates, _ = transform.update(params, transform.init(params), params)
        learning_rate = float(schedule(settings, 1)(0))
        rms = jnp.sqrt(jnp.mean(updates["hidden"] ** 2)) / learning_rate
        np.testing.assert_allclose(rms, 1, rtol=0.2)
