"""Protects the starts of meta-training."""

import numpy as np
import pytest

from celo2 import InputError, Spec, load_theta, rule
from celo2.meta.starts import STARTS, handcrafted


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


def test_celo2_is_a_start_for_its_own_spec_alone():
    np.testing.assert_array_equal(
        STARTS["celo2"](3, Spec()).weights.w0, load_theta("celo2").weights.w0
    )
    with pytest.raises(
        InputError,
        match=r"the start celo2 has Spec\(newton_schulz=True, .*hidden=8.*take another start",
    ):
        STARTS["celo2"](0, Spec(hidden=4))
