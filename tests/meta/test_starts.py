"""Protects the starts of meta-training."""

import jax
import numpy as np
import pytest

from celo2 import InputError, Spec, Theta, load_theta, rule
from celo2.baselines import accumulators as celo_accumulators
from celo2.baselines import load_celo
from celo2.baselines.network import proposed_step
from celo2.meta.inner import InnerLoop
from celo2.meta.starts import embedded_celo, handcrafted, start
from celo2.rule import LEAN


@pytest.mark.parametrize("gradient", [0.3, 1.0])
def test_the_handcrafted_start_is_muons_direction(gradient):
    """Without the small rest: normalized M_0.9 and so much of normalized G, by hand."""
    theta = handcrafted(0, Spec(), {"M": 1.0, "G": gradient}, rest=0.0).weights
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal((2, 4, 6))
    step, accumulators = rule.update(np, Spec(), theta, rule.init(np, Spec(), p), g, p, None)
    m = accumulators.averages[0]
    expected = m / np.sqrt(np.mean(m**2)) + gradient * g / np.sqrt(np.mean(g**2))
    np.testing.assert_allclose(step, expected / np.sqrt(np.mean(expected**2)), rtol=1e-4)


def test_published_celo_is_the_same_function_in_the_wider_mlp_of_the_rule():
    """Its step as `celo2.baselines` computes it, up to its size; with Celo's constants."""
    spec = Spec(second_moment_decay=0.999, second_moment_epsilon=1e-6, normalize_epsilon=1e-5)
    theta = embedded_celo(0, spec).weights
    rng = np.random.default_rng(0)
    p, *grads = rng.standard_normal((4, 4, 6)).astype(np.float32)
    ours, theirs = rule.init(np, spec, p), celo_accumulators.init(p)
    for g in grads:
        step, ours = rule.update(np, spec, theta, ours, g, p, None)
        theirs = celo_accumulators.update(theirs, g)
    mlp = jax.tree.map(np.squeeze, load_celo("celo").mlp)
    expected = np.asarray(proposed_step(mlp, theirs, grads[-1], p))
    np.testing.assert_allclose(step, expected / np.sqrt(np.mean(expected**2)), rtol=0, atol=5e-3)
    with pytest.raises(InputError, match="the start celo has the published features and 4 hidden"):
        embedded_celo(0, LEAN)


def test_a_theta_that_ships_is_a_start_for_its_own_spec_alone():
    found = start("celo2", 3, InnerLoop())
    np.testing.assert_array_equal(found.w0, load_theta("celo2").weights.w0)
    with pytest.raises(
        InputError,
        match=r"the start celo2 has Spec\(newton_schulz=True, .*hidden=8.*take another start",
    ):
        start("celo2", 0, InnerLoop(spec=Spec(hidden=4)))


def test_a_file_is_a_start(tmp_path):
    theta = Theta.random(5)
    theta.save(tmp_path / "theta.safetensors")
    found = start(str(tmp_path / "theta.safetensors"), 0, InnerLoop())
    np.testing.assert_array_equal(found.w1, theta.weights.w1)
    with pytest.raises(InputError, match=r"start is .absent.; give one of random, celo, muon-0.3,"):
        start("absent", 0, InnerLoop())


def test_published_celo_is_a_start_for_an_lstm_of_its_width_alone():
    loop = InnerLoop(learner="celo", lstm_width=64)
    np.testing.assert_array_equal(start("celo", 0, loop).mlp.w0, load_celo("celo").mlp.w0)
    with pytest.raises(InputError, match="the start celo is not one of celo with an LSTM 32 wide"):
        start("celo", 0, InnerLoop(learner="celo", lstm_width=32))
