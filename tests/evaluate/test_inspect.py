"""Protects the numbers of `celo2 inspect`: thetas whose direction is known give known ones."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from celo2 import Theta, rule
from celo2.evaluate.inspect.memory import memory
from celo2.evaluate.inspect.probe import COMPARED, probe
from celo2.evaluate.inspect.response import responses
from celo2.evaluate.inspect.run import watch
from celo2.evaluate.suites import Problem
from celo2.meta.starts import handcrafted
from celo2.rule import LEAN, Spec, Weights
from tests.cases import draw
from tests.families import Quadratic

BASE = Spec(newton_schulz=False)


def theta_of(feature, spec=BASE):
    """A theta whose direction is exactly one feature, normalized."""
    return handcrafted(0, spec, {feature: 1.0}, rest=0.0)


def cosines(theta):
    w, grads = draw((6, 9), steps=8)
    accumulators = rule.init(jnp, theta.spec, jnp.asarray(w))
    for g in grads:
        accumulators = rule.accumulate(jnp, theta.spec, accumulators, jnp.asarray(g))
    weights = Weights(*map(jnp.asarray, theta.weights))
    found = probe(theta.spec, weights, accumulators, jnp.asarray(grads[-1]), jnp.asarray(w))
    return dict(zip(COMPARED, np.asarray(found.cosines), strict=True)), found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("feature", "orthogonalized", "direction"),
    [("M", True, "Muon"), ("M", False, "momentum"), ("G", False, "SGD"), ("M s", False, "Adam")],
)
def test_a_theta_that_is_a_handwritten_optimizer_has_cosine_one_to_it(
    feature, orthogonalized, direction
):
    found, _ = cosines(theta_of(feature, dataclasses.replace(BASE, newton_schulz=orthogonalized)))
    np.testing.assert_allclose(found.pop(direction), 1, atol=1e-4)
    assert max(found.values()) < 0.99


def test_adam_of_a_rule_without_a_second_moment_has_that_of_its_factored_moments():
    lean = dataclasses.replace(LEAN, newton_schulz=False)
    found, _ = cosines(theta_of("M F", lean))
    np.testing.assert_allclose(found.pop("Adam"), 1, atol=1e-4)
    assert (
        max(found.values()) < 0.995
    )  # the momentum: rows and columns of these gradients are alike


def test_momentum_cosines_and_active_units_of_one_that_is_the_momentum():
    """Of a pair of units one is active for each sign; those that nothing reads may be anything."""
    _, found = cosines(theta_of("M"))
    np.testing.assert_allclose(found.momentum_cosines[0], 1, atol=1e-5)
    np.testing.assert_allclose(found.active[:, :2].sum(1), 1, atol=1e-6)
    assert 0 < float(found.active[0, 0]) < 1


def test_the_memory_of_a_momentum_is_its_decay_to_the_power_of_the_lag():
    lags = (0, 1, 5, 20)
    np.testing.assert_allclose(memory(theta_of("M"), lags), 0.9 ** np.array(lags), rtol=3e-2)
    np.testing.assert_allclose(memory(theta_of("G"), lags), [1, 0, 0, 0], atol=1e-9)


def test_a_theta_responds_to_the_channel_that_it_passes_on():
    found = {response.name: response for response in responses(theta_of("M"))}
    passed = found["M 0.9"]
    np.testing.assert_allclose(passed.y / passed.y[-1], passed.x / passed.x[-1], atol=1e-6)
    np.testing.assert_allclose(passed.reach, 6, rtol=0.1)
    assert max(each.reach for name, each in found.items() if name != "M 0.9") < 1e-6
    assert len(found) == 30


def test_even_channels_take_no_negative_values():
    found = {response.name: response for response in responses(Theta.random(0))}
    assert found["V"].x.min() == 0
    assert found["G"].x.min() < 0


@pytest.mark.slow
def test_a_watched_run_of_the_momentum_and_of_its_opposite():
    """Nothing, and everything, is below the angle of a guard; one of them descends."""
    theta = theta_of("M")
    opposite = dataclasses.replace(theta, weights=theta.weights._replace(w2=-theta.weights.w2))
    settings = {"learning_rate": 0.05, "adamw_lr_multiplier": 1.0}
    problem = Problem("tiny", Quadratic, 12)
    with_it, against = (watch(problem, each, settings, 0) for each in (theta, opposite))
    (name,) = with_it.probes
    assert with_it.guard_rate(0.9, name) == 0
    assert against.guard_rate(0.01, name) == 1
    assert with_it.losses[-1] < with_it.losses[0] < against.losses[-1]
    before, after = with_it.singular_values[name]
    np.testing.assert_array_equal(before, after)  # this rule does not orthogonalize
    np.testing.assert_allclose(np.mean(before**2), 1)
