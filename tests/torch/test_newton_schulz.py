"""Protects Newton-Schulz in PyTorch: the rule's numbers in either form, by any coefficients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from celo2 import rule
from celo2.rule import POLAR_EXPRESS, Spec
from celo2.torch import newton_schulz

SHAPES = {"square": (6, 6), "wide": (4, 20), "batch": (3, 4, 9), "row": (1, 5)}
SPECS = {
    "none": Spec(newton_schulz_iterations=0),
    "one": Spec(newton_schulz_iterations=1),
    "muon": Spec(),
    "one after another": Spec(newton_schulz_coefficients=POLAR_EXPRESS),
    "the last repeats": Spec(newton_schulz_coefficients=POLAR_EXPRESS[:2]),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_iterations_are_those_of_the_rule(shape, spec):
    d = np.random.default_rng(0).standard_normal(shape)
    found = newton_schulz.orthogonalize(spec, torch.tensor(d, dtype=torch.float32))
    np.testing.assert_allclose(found, rule.orthogonalize(np, spec, d), rtol=0, atol=1e-4)


def test_the_polar_express_goes_to_the_polar_factor():
    """U V^T of the singular value decomposition; norms are divided out first, so none is < 1e-3."""
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.standard_normal((16, 16)))
    v, _ = np.linalg.qr(rng.standard_normal((64, 16)))
    s = np.geomspace(1, 2e-3, 16)
    d = (u * s) @ v.T
    errors = {}
    for iterations in (5, 6, 8):
        spec = Spec(newton_schulz_coefficients=POLAR_EXPRESS, newton_schulz_iterations=iterations)
        found = newton_schulz.orthogonalize(spec, torch.tensor(d, dtype=torch.float32))
        errors[iterations] = np.linalg.norm(found.numpy() - u @ v.T, 2)
    assert errors[5] < 0.3
    assert errors[6] < 0.02
    assert errors[8] < 1e-3
    muon = newton_schulz.orthogonalize(Spec(), torch.tensor(d, dtype=torch.float32))
    assert np.linalg.norm(muon.numpy() - u @ v.T, 2) > errors[5]
