"""Protects the odd rules: projection makes an update odd, and meta-training stays among them."""

import dataclasses

import numpy as np
import pytest

from celo2 import Spec, rule
from celo2.meta import outer
from celo2.meta.checkpoint import theta_of
from celo2.meta.starts import STARTS
from celo2.meta.symmetry import project
from celo2.rule import Weights
from tests.cases import THETA
from tests.meta.settings import CONFIG, FAMILY


def flipped(theta, params, g):
    """The rule's step for W and g, and for -W and -g, after three gradients."""
    steps = []
    for sign in (1, -1):
        accumulators = rule.init(np, Spec(), params)
        for t in range(3):
            step, accumulators = rule.update(
                np, Spec(), theta, accumulators, sign * g[t], sign * params, None
            )
        steps.append(step)
    return steps


def test_an_odd_rule_turns_its_step_around_with_the_gradient():
    rng = np.random.default_rng(0)
    params, g = rng.standard_normal((3, 5)), rng.standard_normal((3, 3, 5))
    random = Weights(*(np.asarray(w, np.float64) for w in THETA.weights))
    ahead, back = flipped(random, params, g)
    assert np.abs(ahead + back).max() > 0.1
    odd = project(Spec(), random)
    ahead, back = flipped(odd, params, g)
    np.testing.assert_allclose(ahead, -back, atol=1e-12)
    for once, twice in zip(odd, project(Spec(), odd), strict=True):
        np.testing.assert_array_equal(once, twice)
    assert rule.channel_signs(Spec()).count(1.0) == 14  # V, s and the factored statistics


@pytest.mark.slow
def test_meta_training_among_the_odd_rules_stays_among_them(tmp_path):
    config = dataclasses.replace(CONFIG, odd=True, start="muon-1")
    for _ in outer.run(config, [FAMILY], tmp_path):
        pass
    found, start = theta_of(tmp_path)[0], STARTS["muon-1"](config.seed, Spec()).weights
    for w, p in zip(found, project(Spec(), found), strict=True):
        np.testing.assert_allclose(w, p, atol=1e-6)
    assert np.abs(found.w0 - start.w0).max() > 1e-3
