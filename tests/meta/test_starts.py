"""Protects the starts of meta-training and the sensitivity of theta to its features."""

import numpy as np
import pytest

from celo2 import InputError, Spec, load_theta, rule
from celo2.meta.sensitivity import sensitivity
from celo2.meta.starts import STARTS, handcrafted
from celo2.rule import Weights
from celo2.theta import Theta


@pytest.mark.parametrize("gradient", [0.3, 1.0])
def test_the_handcrafted_start_is_muons_direction(gradient):
    """Without the small rest: normalized M_0.9 and so much of normalized G, by hand."""
    theta = handcrafted(0, Spec(), {"M": 1.0, "G": gradient}, rest=0.0).weights
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal((2, 4, 6))
    step, accumulators = rule.update(np, Spec(), theta, rule.init(np, Spec(), p), g, p, None)
    m = accumulators.momentum[0]
    expected = m / np.sqrt(np.mean(m**2)) + gradient * g / np.sqrt(np.mean(g**2))
    np.testing.assert_allclose(step, expected / np.sqrt(np.mean(expected**2)), rtol=1e-4)


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


def test_celo2_is_a_start_for_its_own_spec_alone():
    np.testing.assert_array_equal(
        STARTS["celo2"](3, Spec()).weights.w0, load_theta("celo2").weights.w0
    )
    with pytest.raises(
        InputError,
        match=r"the start celo2 has Spec\(newton_schulz=True, .*hidden=8.*take another start",
    ):
        STARTS["celo2"](0, Spec(hidden=4))
