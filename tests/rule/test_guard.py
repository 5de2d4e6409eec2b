"""Protects the guard: the least push, found by brute force too, for any theta and direction."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize

from celo2 import InputError, Theta, rule
from celo2.rule import Spec, Weights
from tests.cases import THETA, draw

SPEC = Spec()
NAMESPACES = {
    "numpy": (np, lambda x: np.asarray(x, np.float32)),
    "jax": (jnp, lambda x: jnp.asarray(x, jnp.float32)),
    "torch": (torch, lambda x: torch.from_numpy(np.array(x, np.float32))),
}
seeds, kappas = st.integers(0, 2**32 - 1), st.floats(0.01, 0.9)


def cosine(x, y):
    return np.sum(x * y) / np.linalg.norm(x) / np.linalg.norm(y)


def pushed_update(kappa, m, u):
    """The guarded update in float64, and whether the guard acted, of one matrix."""
    magnitude = np.abs(m).sum(keepdims=True)
    with np.errstate(invalid="ignore", over="ignore"):
        sums = rule.products(np, m, u, magnitude)
        push = rule.push(np, kappa, m.size, magnitude, sums)
    kept = np.where(push.on_update > 0, u, 0.0)
    return push.on_update * kept + push.on_momentum * m, bool(push.pushed)


def opposed(seed, c, shape=(4, 6)):
    """A momentum, and an update of RMS 1 at cosine c to it."""
    rng = np.random.default_rng(seed)
    m, x = rng.standard_normal((2, *shape))
    across = x - np.sum(x * m) / np.sum(m * m) * m
    u = c * m / np.linalg.norm(m) + np.sqrt(1 - c * c) * across / np.linalg.norm(across)
    return m, u * np.sqrt(u.size)


@given(seeds, kappas, st.floats(-0.99, 0.99), st.floats(-6, 6))
def test_cosine_and_size_afterwards(seed, kappa, c, exponent):
    assume(abs(c - kappa) > 1e-6)
    m, u = opposed(seed, c)
    new, acted = pushed_update(kappa, 10.0**exponent * m, u)
    assert acted == (c < kappa)
    if not acted:
        np.testing.assert_array_equal(new, u)
    else:
        np.testing.assert_allclose(cosine(new, m), kappa, atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(new), np.linalg.norm(u))


@given(seeds, kappas, st.floats(-0.99, 0.99))
def test_the_push_is_the_least(seed, kappa, c):
    """SciPy finds the least push along the momentum, and the nearest direction of all."""
    assume(c < kappa - 1e-3)
    m, u = opposed(seed, c, shape=(2, 2))
    new, _ = pushed_update(kappa, m, u)
    unit, along = u / np.linalg.norm(u), m / np.linalg.norm(m)
    least = brentq(lambda a: cosine(unit + a * along, along) - kappa, 0, 1e3)
    np.testing.assert_allclose(cosine(unit + least * along, new), 1, atol=1e-9)

    on_sphere = {"type": "eq", "fun": lambda x: x @ x - 1}
    in_cone = {"type": "ineq", "fun": lambda x: x @ along.ravel() - kappa}
    nearest = minimize(
        lambda x: -x @ unit.ravel(), along.ravel() + 0.1 * unit.ravel(),
        constraints=[on_sphere, in_cone], options={"ftol": 1e-12},
    )  # fmt: skip
    np.testing.assert_allclose(-nearest.fun, cosine(unit, new), atol=1e-6)


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30, 0.0, 1e-3])
def test_what_is_no_direction_is_replaced_by_the_momentum(namespace, bad):
    """Not a number, an overflow of its squares, zero, or lost in the epsilon."""
    xp, convert = NAMESPACES[namespace]
    m = np.array([[3.0, 0.0], [0.0, -4.0]])
    u = np.full((2, 2), bad)
    magnitude = xp.sum(xp.abs(convert(m)), axis=(-2, -1), keepdims=True)
    with np.errstate(all="ignore"):
        push = rule.push(
            xp, 0.1, 4, magnitude, rule.products(xp, convert(m), convert(u), magnitude)
        )
    assert bool(push.pushed)
    assert float(push.on_update[0, 0]) == 0
    np.testing.assert_allclose(push.on_momentum * convert(m), 2 * m / 5, rtol=1e-6)


def test_an_update_against_the_momentum_is_replaced_by_it():
    """Exactly opposed, nothing across is left to keep."""
    m = np.array([[3.0, 0.0], [0.0, -4.0]])
    new, acted = pushed_update(0.1, m, -2 * m / 5)
    assert acted
    np.testing.assert_allclose(new, 2 * m / 5)


def test_hand_computed_push():
    """kappa = 0.6: the update (0, 1) beside the momentum (1, 0) becomes (0.6, 0.8)."""
    new, acted = pushed_update(0.6, np.array([[5.0, 0.0]]), np.sqrt(2) * np.array([[0.0, 1.0]]))
    assert acted
    np.testing.assert_allclose(new, np.sqrt(2) * np.array([[0.6, 0.8]]))


@given(seeds, kappas, st.sampled_from([THETA, "random", "minus"]), st.floats(-12, 12))
def test_every_theta_gives_updates_at_the_angle(seed, kappa, theta, exponent):
    """A random one, and the shipped one against its own sign, in float32 over 24 decades."""
    if theta == "random":
        theta = Theta.random(seed)
    elif theta == "minus":
        theta = dataclasses.replace(THETA, weights=THETA.weights._replace(w2=-THETA.weights.w2))
    w, grads = draw((4, 6), steps=5, seed=seed, scale=10.0**exponent)
    accumulators = rule.init(np, SPEC, w)
    orthogonalize = rule.orthogonalize if seed % 2 else None
    for g in grads:
        u, accumulators, _ = rule.guarded_update(
            np, SPEC, theta.weights, accumulators, g, w, orthogonalize, kappa
        )
        m = accumulators.averages[0].astype(np.float64)
        assert cosine(u, m) > kappa - 1e-4
        np.testing.assert_allclose(np.sqrt(np.mean(u * u)), 1, rtol=0.3)


@pytest.mark.parametrize("namespace", ["jax", "torch"])
def test_namespaces_agree(namespace):
    w, grads = draw((4, 6), steps=3)
    theta, found = Theta.random(1), {}
    for name in ("numpy", namespace):
        xp, convert = NAMESPACES[name]
        weights = Weights(*map(convert, theta.weights))
        accumulators, p = rule.init(xp, SPEC, convert(w)), convert(w)
        for g in grads:
            u, accumulators, acted = rule.guarded_update(
                xp, SPEC, weights, accumulators, convert(g), p, rule.orthogonalize, 0.5
            )
        assert bool(acted)
        found[name] = np.asarray(u)
    np.testing.assert_allclose(found[namespace], found["numpy"], atol=1e-4)


def test_where_it_does_not_act_the_update_is_the_same_bit_for_bit():
    w, grads = draw((4, 6), steps=1)
    start = rule.init(np, SPEC, w)
    arguments = np, SPEC, THETA.weights, start, grads[0], w, rule.orthogonalize
    u, _, acted = rule.guarded_update(*arguments, 0.01)
    assert not acted.any()
    np.testing.assert_array_equal(u, rule.update(*arguments)[0])


def test_matrices_are_guarded_each_by_itself():
    """One that has no gradient yet stays; an inactive one keeps its state."""
    w, grads = draw((3, 4, 6), steps=1)
    grads[0, 1] = 0
    theta = Theta.random(1)
    active = np.array([True, True, False])[:, None, None]
    start = rule.init(np, SPEC, w)
    u, new, acted = rule.guarded_update(
        np, SPEC, theta.weights, start, grads[0], w, None, 0.9, active
    )
    assert acted.ravel().tolist() == [True, False, False]
    assert u[0].any()
    assert not u[1:].any()
    assert not new.averages[:, 2].any()
    alone, _, _ = rule.guarded_update(
        np, SPEC, theta.weights, rule.init(np, SPEC, w[0]), grads[0, 0], w[0], None, 0.9
    )
    np.testing.assert_allclose(u[0], alone, rtol=1e-6)


@pytest.mark.parametrize("kappa", [0, 1, -0.1, 1.5, True, "much", float("nan")])
def test_what_is_refused(kappa):
    with pytest.raises(InputError, match=r"guard is .*; give a number between 0 and 1, or None"):
        rule.check_kappa(kappa)
