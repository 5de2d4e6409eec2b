"""Protects Newton-Schulz in JAX: the rule's numbers in either form, orientation and in tiles, and
the gradients that autodiff finds of the plain iterations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo2 import rule
from celo2.jax import newton_schulz
from celo2.rule import POLAR_EXPRESS, Spec

SHAPES = {"square": (6, 6), "wide": (4, 20), "tall": (20, 4), "batch": (3, 4, 9), "row": (1, 5)}


def plain(spec, d):
    """The iterations as the rule writes them, which needs the short side first."""
    tall = d.shape[-2] > d.shape[-1]
    x = rule.orthogonalize(jnp, spec, d.mT if tall else d)
    return x.mT if tall else x


@pytest.mark.parametrize(
    "spec",
    [
        Spec(newton_schulz_iterations=1),
        Spec(),
        Spec(newton_schulz_coefficients=POLAR_EXPRESS[:3], newton_schulz_iterations=5),
    ],
    ids=["one", "muon", "polar-express"],
)
@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients_are_those_of_the_plain_iterations(name, spec):
    keys = jax.random.split(jax.random.key(0))
    d, direction = (jax.random.normal(key, SHAPES[name]) for key in keys)

    def loss(f, d):
        return jnp.sum(direction * f(d))

    def fast(d):
        return newton_schulz.orthogonalize(jnp, spec, d)

    def slow(d):
        return plain(spec, d)

    np.testing.assert_allclose(fast(d), slow(d), rtol=0, atol=2e-5)
    found = jax.grad(lambda d: loss(fast, d))(d)
    expected = jax.grad(lambda d: loss(slow, d))(d)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * float(jnp.abs(expected).max()))


def test_small_singular_values_survive_the_gram_form():
    """Against float64 in NumPy: rounding errors of the Gram matrix grow where it is not renewed."""
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.standard_normal((16, 16)))
    v, _ = np.linalg.qr(rng.standard_normal((64, 16)))
    d = (u * np.geomspace(1, 1e-3, 16)) @ v.T
    expected = rule.orthogonalize(np, Spec(), d)
    found = newton_schulz.orthogonalize(jnp, Spec(), jnp.asarray(d, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("shape", [(8, 64), (64, 8)])
def test_tiles_change_no_number(shape, monkeypatch):
    monkeypatch.setattr(newton_schulz, "TILE", 100)
    d = jax.random.normal(jax.random.key(0), shape)
    tiled = newton_schulz.orthogonalize(jnp, Spec(), d, in_tiles=True)
    np.testing.assert_allclose(
        tiled, newton_schulz.orthogonalize(jnp, Spec(), d), rtol=0, atol=1e-6
    )
