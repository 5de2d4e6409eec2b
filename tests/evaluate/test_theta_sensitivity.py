"""Protects the sensitivity of theta to its features: of a theta by hand, and by differences."""

import numpy as np
import pytest

from celo2 import rule
from celo2.evaluate.inspect.sensitivity import sensitivity
from celo2.meta.starts import handcrafted
from celo2.rule import Spec, Weights
from celo2.theta import Theta


def test_a_handcrafted_theta_is_sensitive_to_what_was_written_into_it():
    heard = sensitivity(handcrafted(0, Spec(), {"M": -2.0, "G s": 0.5}, rest=0.0))
    assert heard.pop("M 0.9") == pytest.approx(-1)
    assert heard.pop("G s") == pytest.approx(0.25)
    assert len(heard) == 14
    assert set(heard.values()) == {0.0}


def test_sensitivities_are_differences_of_its_direction():
    """Central ones, of the rule's own MLP, at channels drawn anew: G is the first, W the third."""
    theta = Theta.random(1)
    x = np.where(
        np.array(rule.channel_signs(Spec())) < 0,
        np.random.default_rng(1).standard_normal((1 << 18, 30)),
        1.0,
    )
    w = Weights(*(array.astype(np.float64) for array in theta.weights))

    def mean_direction(channel, step):
        hidden = (x + step * np.eye(30)[channel]) @ w.w0
        return rule.later_layers(np, w, hidden.T[:, None]).mean()

    differences = [
        mean_direction(channel, 0.05) - mean_direction(channel, -0.05) for channel in (0, 2)
    ]
    heard = sensitivity(theta)
    assert heard["W"] / heard["G"] == pytest.approx(differences[1] / differences[0], rel=0.05)
