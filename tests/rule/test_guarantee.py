"""Protects the theorem of docs/guarantee.md: adversaries stay within its bound if guarded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celo2 import Theta, rule
from celo2.rule import Spec

RUNS, SHAPE, STEPS = 16, (3, 4), 150
"""Runs are averaged in the place of expectations."""


def bound(kappa, beta, rate, gap, slope, smoothness, noise):
    """The right side of the theorem."""
    error = (
        beta * slope / ((1 - beta) * STEPS)
        + smoothness * rate * beta / (1 - beta)
        + noise * np.sqrt((1 - beta) / (1 + beta))
    )
    return (gap / (rate * STEPS) + smoothness * rate / 2 + (1 + kappa) * error) / kappa


class Quadratic:
    """f(X) = sum of h_i x_i^2 / 2, from X_0 of norm 3."""

    def __init__(self, rng):
        self.h = rng.uniform(0.01, 2.0, SHAPE)
        start = rng.standard_normal(SHAPE)
        self.start = 3 * start / np.linalg.norm(start)
        self.smoothness, self.gap = self.h.max(), np.sum(self.h * self.start**2) / 2

    def gradient(self, x):
        return self.h * x


class Logistic:
    """Mean logistic loss of 20 points whose labels a hyperplane separates; its infimum is 0."""

    def __init__(self, rng):
        self.points = rng.standard_normal((20, *SHAPE))
        self.labels = np.sign(np.einsum("nab,ab->n", self.points, rng.standard_normal(SHAPE)))
        self.start = np.zeros(SHAPE)
        flat = self.points.reshape(20, -1)
        self.smoothness = np.linalg.eigvalsh(flat.T @ flat / 20)[-1] / 4
        self.gap = np.log(2)

    def gradient(self, x):
        margins = self.labels * np.einsum("nab,...ab->...n", self.points, x)
        weights = self.labels / (1 + np.exp(margins)) / 20
        return -np.einsum("...n,nab->...ab", weights, self.points)


def norms(x):
    return np.sqrt(np.sum(x * x, axis=(-2, -1), keepdims=True))


def uphill(m, g, rng):
    """As much against the momentum as leaves something across it."""
    across = rng.standard_normal(m.shape)
    across -= np.sum(across * m, (-2, -1), keepdims=True) * m / np.maximum(norms(m) ** 2, 1e-300)
    return -0.95 * m / norms(m) + 0.3 * across / norms(across)


def against_the_gradient(m, g, rng):
    return -g


def anywhere(m, g, rng):
    return rng.standard_normal(m.shape)


def nowhere(m, g, rng):
    return np.full_like(m, np.nan)


ADVERSARIES = [uphill, against_the_gradient, anywhere, nowhere]


def slopes(problem, adversary, kappa, beta, rate, noise, rng):
    """The mean norm of the gradient over steps and runs of gradient descent under an adversary."""
    x = np.broadcast_to(problem.start, (RUNS, *SHAPE)).copy()
    m, found = np.zeros_like(x), []
    for _ in range(STEPS):
        gradient = problem.gradient(x)
        found.append(norms(gradient))
        g = gradient + noise / np.sqrt(x[0].size) * rng.standard_normal(x.shape)
        m = beta * m + (1 - beta) * g
        d = adversary(m, g, rng)
        u = d * np.sqrt(d[0].size) / norms(d)
        if kappa is not None:
            magnitude = np.sum(np.abs(m), (-2, -1), keepdims=True)
            push = rule.push(np, kappa, d[0].size, magnitude, rule.products(np, m, u, magnitude))
            u = np.where(push.on_update > 0, u, 0) * push.on_update + push.on_momentum * m
        x = x - rate * u / np.sqrt(d[0].size)
    return np.mean(found)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([Quadratic, Logistic]),
    st.sampled_from(ADVERSARIES),
    st.sampled_from([0.05, 0.3, 0.9]),
    st.sampled_from([0.0, 0.9, 0.99]),
    st.sampled_from([0.01, 0.1]),
    st.sampled_from([0.0, 1.0]),
)
def test_the_bound_holds_for_adversaries(seed, kind, adversary, kappa, beta, rate, noise):
    rng = np.random.default_rng(seed)
    problem = kind(rng)
    slope = np.linalg.norm(problem.gradient(problem.start))
    most = bound(kappa, beta, rate, problem.gap, slope, problem.smoothness, noise)
    assert slopes(problem, adversary, kappa, beta, rate, noise, rng) <= most


@pytest.mark.parametrize("adversary", [uphill, against_the_gradient])
def test_without_the_guard_an_adversary_breaks_it(adversary):
    """So the bound says something: the same runs, unguarded, climb beyond it."""
    kappa, beta, rate = 0.9, 0.9, 0.1
    rng = np.random.default_rng(0)
    problem = Quadratic(rng)
    slope = np.linalg.norm(problem.gradient(problem.start))
    most = bound(kappa, beta, rate, problem.gap, slope, problem.smoothness, 0.0)
    assert slopes(problem, adversary, kappa, beta, rate, 0.0, rng) <= most
    assert slopes(problem, adversary, None, beta, rate, 0.0, rng) > most


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.5]), st.booleans())
def test_the_bound_holds_for_random_thetas(seed, kappa, orthogonalized):
    """Of the whole rule with its momentum of decay 0.9, on a quadratic with noise."""
    rng, spec, theta = np.random.default_rng(seed), Spec(), Theta.random(seed)
    problem, rate, noise = Quadratic(rng), 0.05, 0.5
    newton_schulz = rule.orthogonalize if orthogonalized else None
    x = np.broadcast_to(problem.start, (RUNS, *SHAPE)).copy()
    accumulators, found = rule.init(np, spec, x), []
    for _ in range(STEPS):
        gradient = problem.gradient(x)
        found.append(norms(gradient))
        g = gradient + noise / np.sqrt(x[0].size) * rng.standard_normal(x.shape)
        u, accumulators, _ = rule.guarded_update(
            np, spec, theta.weights, accumulators, g, x, newton_schulz, kappa
        )
        x = x - rate * u / np.sqrt(x[0].size)
    slope = np.linalg.norm(problem.gradient(problem.start))
    most = bound(kappa, 0.9, rate, problem.gap, slope, problem.smoothness, noise)
    assert np.mean(found) <= most
