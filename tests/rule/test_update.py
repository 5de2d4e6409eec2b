"""Protects the rule from drifting: off recorded outputs, off the paper, between namespaces."""

import ast
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from celo2 import MatrixAxes, Theta, rule
from celo2.parameters.views import matrix_views
from celo2.rule import Weights
from celo2.rule.spec import Spec
from tests.cases import GOLDEN, GOLDEN_CASES, REFERENCE, SHAPES, THETA, draw
from tests.oracle import oracle_steps

SPEC = Spec()
NAMESPACES = {
    "numpy float64": (np, lambda x: np.asarray(x, np.float64)),
    "numpy": (np, np.asarray),
    "jax": (jnp, jnp.asarray),
    "torch": (torch, lambda x: torch.from_numpy(np.array(x))),
}


def run(xp, convert, w, grads, orthogonalize, theta=THETA, lr=0.01):
    """(steps, parameters) of the rule over `xp`, for one parameter in (..., in, out)."""
    (piece,) = matrix_views(w.shape, MatrixAxes())
    weights = Weights(*map(convert, theta.weights))
    p, steps, params = convert(w), [], []
    newton_schulz = rule.orthogonalize if orthogonalize and not piece.is_vector else None
    accumulators = rule.init(xp, SPEC, piece.view(xp, p), piece.is_vector)

    def update(accumulators, g, p):
        views = piece.view(xp, g), piece.view(xp, p)
        u, accumulators = rule.update(xp, SPEC, weights, accumulators, *views, newton_schulz)
        return piece.inverse(xp, u), accumulators

    if xp is jnp:
        update = jax.jit(update)  # compiled once, and not operation by operation
    for g in grads:
        u, accumulators = update(accumulators, convert(g), p)
        p = p - lr * u
        steps.append(np.asarray(u))
        params.append(np.asarray(p))
    return np.array(steps), np.array(params)


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden(case, namespace):
    """All recorded cases of the authors' implementation, through ten steps.

    To 1e-4 in the step and in the parameters.
    """
    steps, params = run(
        *NAMESPACES[namespace],
        GOLDEN[f"{case}/params0"],
        GOLDEN[f"{case}/grads"],
        case.endswith("orth"),
    )
    np.testing.assert_allclose(steps, GOLDEN[f"{case}/updates"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(params, GOLDEN[f"{case}/params"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("orthogonalize", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_oracle_in_float64(name, orthogonalize):
    """Against the naive form in float64 the efficient one (folded, channels first) is exact."""
    w, grads = draw(SHAPES[name])
    steps, params = run(*NAMESPACES["numpy float64"], w, grads, orthogonalize)
    expected_steps, expected_params = oracle_steps(REFERENCE, grads, w, orthogonalize)
    np.testing.assert_allclose(steps, expected_steps, rtol=0, atol=1e-9)
    np.testing.assert_allclose(params, expected_params, rtol=0, atol=1e-9)


@pytest.mark.parametrize("namespace", ["jax", "torch"])
@pytest.mark.parametrize("name", SHAPES)
def test_float32_parameters_after_twenty_steps(name, namespace):
    w, grads = draw(SHAPES[name])
    _, params = run(*NAMESPACES[namespace], w, grads, True)
    _, expected = oracle_steps(REFERENCE, grads, w, True)
    np.testing.assert_allclose(params[-1], expected[-1], rtol=0, atol=1e-5)


def test_hand_computed_step():
    """Theta that passes channel 0 (the gradient) through one ReLU unit.

    The step is the positive part, brought to RMS 1.
    """
    weights = Weights(*(np.zeros_like(w) for w in THETA.weights))
    weights.w0[0, 0] = weights.w1[0, 0] = weights.w2[0, 0] = 1.0
    g = np.array([[3.0, -1.0], [4.0, 0.0]])
    accumulators = rule.init(np, SPEC, g)
    u, new = rule.update(np, SPEC, weights, accumulators, g, np.zeros((2, 2)), None)
    np.testing.assert_allclose(u, np.array([[3.0, 0.0], [4.0, 0.0]]) / 2.5, rtol=1e-6)
    np.testing.assert_allclose(new.averages[:3, 0, 0], [0.3, 0.03, 0.003])
    np.testing.assert_allclose(new.factored[0][0, :, 0], [0.1 * 5, 0.1 * 8])


@given(
    st.integers(0, 2**32 - 1),
    st.floats(-15, 15),
    st.booleans(),
    st.sampled_from([(7, 5), (6, 6), (1, 4)]),
)
def test_every_finite_gradient_gives_a_finite_step_of_rms_one(seed, exponent, orthogonalize, shape):
    """Over 30 orders of magnitude of the gradient, in float32."""
    w, grads = draw(shape, steps=3, seed=seed, scale=10.0**exponent)
    with np.errstate(under="ignore"):
        steps, _ = run(np, np.asarray, w, grads, orthogonalize)
    assert np.isfinite(steps).all()
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(steps), axis=(1, 2))), 1, rtol=1e-3)


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_a_batch_is_its_matrices_each_by_itself(seed, batch):
    w, grads = draw((batch, 6, 4), steps=4, seed=seed)
    together, _ = run(*NAMESPACES["numpy float64"], w, grads, True)
    alone = [run(*NAMESPACES["numpy float64"], w[i], grads[:, i], True)[0] for i in range(batch)]
    np.testing.assert_allclose(together, np.stack(alone, axis=1), atol=1e-10)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(5, 5), (4, 9), (9, 4)]))
def test_the_step_does_not_depend_on_how_the_matrix_is_stored(seed, shape):
    """(in, out), a Linear's (out, in) and a convolution's tap (out, in, 1, 1) are one matrix."""
    w, grads = draw(shape, steps=1, seed=seed)
    views = {
        (0, 1): lambda x: x,
        (1, 0): lambda x: x.T,
        (1, 0, 2, 3): lambda x: x.T[:, :, None, None],
    }
    steps = []
    for order, store in views.items():
        axes = MatrixAxes(fan_in=order[0], fan_out=order[1])
        (piece,) = matrix_views(store(w).shape, axes)
        p, g = piece.view(np, store(w)), piece.view(np, store(grads[0]))
        u, _ = rule.update(
            np, SPEC, THETA.weights, rule.init(np, SPEC, p), g, p, rule.orthogonalize
        )
        steps.append(np.squeeze(piece.inverse(np, u)) if len(order) == 4 else piece.inverse(np, u))
    np.testing.assert_array_equal(steps[1].T, steps[0])
    np.testing.assert_array_equal(steps[2].T, steps[0])


@given(st.integers(0, 2**32 - 1), st.sampled_from([(8, 8), (5, 20), (16, 24)]))
def test_newton_schulz_brings_singular_values_near_one(seed, shape):
    """All below 1.22, and above 0.6 where they were above 1 % of the Frobenius norm.

    That is the band of the quintic.
    """
    d = np.random.default_rng(seed).standard_normal(shape)
    before = np.linalg.svd(d / np.linalg.norm(d), compute_uv=False)
    after = np.linalg.svd(rule.orthogonalize(np, SPEC, d), compute_uv=False)
    assert after.max() < 1.22
    assert after[before > 0.01].min() > 0.6


def test_newton_schulz_keeps_the_singular_vectors():
    d = np.random.default_rng(0).standard_normal((6, 10))
    u, _, vt = np.linalg.svd(d)
    x = rule.orthogonalize(np, SPEC, d)
    core = u.T @ x @ vt[:6].T
    np.testing.assert_allclose(core, np.diag(np.diag(core)), atol=1e-10)


@pytest.mark.parametrize("orthogonalize", [True, False])
def test_a_matrix_that_never_saw_a_gradient_does_not_move(orthogonalize):
    w, _ = draw((4, 6))
    steps, params = run(np, np.asarray, w, np.zeros((3, 4, 6), np.float32), orthogonalize)
    assert not steps.any()
    np.testing.assert_array_equal(params[-1], w)


def test_a_matrix_goes_on_moving_after_its_gradient_vanished():
    w, grads = draw((4, 6), steps=1)
    steps, _ = run(np, np.asarray, w, np.concatenate([grads, np.zeros_like(grads)]), True)
    np.testing.assert_allclose(np.sqrt(np.mean(steps[1] ** 2)), 1, rtol=1e-3)


def test_only_names_that_mean_the_same_in_all_three_namespaces():
    """Of `xp` only what NumPy, jax.numpy and torch agree on, and nothing is written in place."""
    allowed = {
        "abs", "clip", "concatenate", "mean", "sqrt",
        "stack", "sum", "swapaxes", "where", "zeros_like",
    }  # fmt: skip
    folder = Path(inspect.getsourcefile(rule)).parent
    tree = ast.Module(
        [node for path in folder.glob("*.py") for node in ast.parse(path.read_text()).body], []
    )
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "xp"
    }
    assert used == allowed
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.AugAssign)]
    assert not [
        t
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for t in node.targets
        if isinstance(t, ast.Subscript)
    ]


def test_random_theta_is_as_published():
    theta = Theta.random(3)
    assert sum(w.size for w in theta.weights) == 347
    assert not theta.weights.b0.any()
    assert np.abs(theta.weights.w0).max() <= 2 / np.sqrt(30)
    assert theta.identity == Theta.random(3, name="random").identity
