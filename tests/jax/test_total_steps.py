"""Protects `celo2(total_steps=)` in JAX: PyTorch's numbers, the policy's schedule, and its traced
numbers, which evolution needs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from celo2 import InputError
from celo2.jax import celo2
from celo2.policy import PowerLaw, plan
from celo2.torch import Celo2
from tests.cases import POLICY as STRAIGHT
from tests.cases import THETA as RULE

POLICY = STRAIGHT._replace(linear=0.5)
THETA = dataclasses.replace(RULE, policy=POLICY)
SHAPES = {"embedding": (11, 8), "first.w": (8, 16), "first.bias": (16,), "head": (16, 4)}


def draw(steps):
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    grads = {name: rng.standard_normal((steps, *shape)) for name, shape in SHAPES.items()}
    return [{k: np.float32(v) for k, v in tree.items()} for tree in (params, grads)]


def train(optimizer, params, grads, steps):
    params, state = jax.tree.map(jnp.asarray, params), optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(steps):
        now = {name: jnp.asarray(g[step]) for name, g in grads.items()}
        updates, state = update(now, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(("scale", "reference_width"), [(1.0, 128.0), (0.01, 128.0), (1.0, 2.0)])
def test_torch_and_jax_agree(scale, reference_width):
    steps, total_steps = 6, 5  # one step past the end
    params, grads = draw(steps)
    policy = POLICY._replace(reference_width=reference_width)
    theta = dataclasses.replace(RULE, policy=policy)
    params = {name: np.float32(scale) * p for name, p in params.items()}
    ours = train(celo2(total_steps=total_steps, theta=theta), params, grads, steps)
    tensors = {name: torch.tensor(p.T if p.ndim > 1 else p) for name, p in params.items()}
    optimizer = Celo2(list(tensors.items()), total_steps=total_steps, theta=theta)
    for step in range(steps - 1):
        for name, p in tensors.items():
            p.grad = torch.tensor(grads[name][step].T)
        optimizer.step()
    for name, p in tensors.items():
        p.grad = torch.tensor(grads[name][-1].T)
    with pytest.warns(UserWarning, match="goes on after its 5 total_steps"):
        optimizer.step()
    for name, p in tensors.items():
        np.testing.assert_allclose(p.numpy().T, ours[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert np.abs(params[name] - ours[name]).max() > 1e-3 * scale


def test_the_learning_rate_is_the_rms_of_the_update_of_a_hidden_matrix():
    theta = dataclasses.replace(RULE, policy=POLICY._replace(weight_decay=0.0))
    params, grads = draw(8)
    optimizer = celo2(total_steps=8, theta=theta)
    update = jax.jit(optimizer.update)
    state, expected = optimizer.init(params), plan(POLICY, 8, range(8)).learning_rates["hidden"]
    for step in range(8):
        now = {name: jnp.asarray(g[step]) for name, g in grads.items()}
        updates, state = update(now, state, params)
        rms = float(jnp.sqrt(jnp.mean(updates["first.w"] ** 2)))
        assert rms == pytest.approx(expected[step], rel=1e-4)


def test_small_initial_weights_scale_every_update():
    """Of each kind, weight decay included, by the median size of the hidden matrices."""
    theta = dataclasses.replace(RULE, policy=POLICY)
    params, grads = draw(1)
    grads = {name: g[0] for name, g in grads.items()}
    size = float(jnp.sqrt(16 * jnp.mean(params["first.w"] ** 2)))
    small = {**params, "first.w": params["first.w"] * np.float32(0.05 / size)}
    optimizer = celo2(total_steps=8, theta=theta)
    ignoring = dataclasses.replace(RULE, policy=POLICY._replace(small_weights=0.0))
    state = optimizer.init(small)
    updates, _ = jax.jit(optimizer.update)(grads, state, small)
    other = celo2(total_steps=8, theta=ignoring)
    plain, _ = jax.jit(other.update)(grads, other.init(small), small)
    for name in params:
        np.testing.assert_allclose(updates[name], 0.05 * plain[name], rtol=1e-5, err_msg=name)


def test_the_factor_is_that_of_the_first_weights_and_of_what_the_rule_updates():
    params, _ = draw(1)
    small = {name: 0.01 * p for name, p in params.items()}
    everything = celo2(total_steps=8, theta=THETA, labels="adamw")
    nested = celo2(total_steps=8, theta=THETA, labels={"a": "celo2", "b": "adamw"})
    assert factor(everything.init(small)) == 1
    size = float(jnp.sqrt(16 * jnp.mean(small["first.w"] ** 2)))
    found = factor(nested.init({"a": {"w": small["first.w"]}, "b": small}))
    assert found == pytest.approx(size, rel=1e-5)


def factor(state):
    return float(optax.tree.get(state, "factor"))


@pytest.mark.slow
def test_numbers_of_a_policy_may_be_traced_and_batched():
    params, grads = draw(3)

    def final(scale):
        law = PowerLaw(POLICY.hidden.at_1000 * scale, POLICY.hidden.exponent)
        theta = dataclasses.replace(RULE, policy=POLICY._replace(hidden=law))
        return train(celo2(total_steps=3, theta=theta), params, grads, 3)["first.w"]

    batched = jax.jit(jax.vmap(final))(jnp.array([1.0, 2.0]))
    for i, scale in enumerate([1.0, 2.0]):
        np.testing.assert_allclose(batched[i], final(scale), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: celo2(theta=THETA), "give either total_steps=.* or learning_rate="),
        (lambda: celo2(1e-3, total_steps=5, theta=THETA), "give either total_steps="),
        (lambda: celo2(total_steps=0.5, theta=THETA), "total_steps is 0.5; give the number"),
        (lambda: celo2(total_steps=5, theta=RULE), "theta 'reference' has no policy"),
        (
            lambda: celo2(total_steps=5, adamw_lr_multiplier=5.0, theta=THETA),
            "adamw_lr_multiplier is 5.0, but with total_steps=",
        ),
    ],
)
def test_bad_input_gets_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_hidden_matrices_of_a_wide_model_move_less_and_decay_as_before():
    """Width 8, reference 2: the update of the hidden matrix is halved, weight decay is not."""
    params, grads = draw(1)
    moved, plain = {}, POLICY._replace(cautious=0.0)
    for name, policy in (("usual", plain), ("wide", plain._replace(reference_width=2.0))):
        theta = dataclasses.replace(RULE, policy=policy)
        after = train(celo2(total_steps=5, theta=theta), params, grads, 1)
        moved[name] = {key: np.asarray(after[key]) - params[key] for key in params}
    rate = plan(POLICY, 5, [0]).learning_rates["hidden"][0]
    decay = -rate * POLICY.weight_decay * params["first.w"]
    expected = 0.5 * (moved["usual"]["first.w"] - decay) + decay
    np.testing.assert_allclose(moved["wide"]["first.w"], expected, rtol=1e-3, atol=1e-6)
    for name in ("embedding", "head", "first.bias"):
        np.testing.assert_allclose(moved["wide"][name], moved["usual"][name], rtol=1e-5)


@pytest.mark.parametrize("cautious", [0.0, 0.5, 1.0])
def test_weight_decay_is_cautious_where_the_update_moves_a_weight_away_from_zero(cautious):
    """Under both optimizers; a weight without a gradient decays."""
    params, grads = draw(1)
    grads["embedding"][0, 3], grads["first.w"][0] = 0.0, 0.0
    policy = POLICY._replace(cautious=cautious)
    moved = {}
    for weight_decay in (0.0, 0.3):
        optimizer = celo2(
            total_steps=5,
            weight_decay=weight_decay,
            theta=dataclasses.replace(RULE, policy=policy),
        )
        after = train(optimizer, params, grads, 1)
        moved[weight_decay] = {key: np.asarray(after[key]) - params[key] for key in params}
    rate = plan(policy, 5, [0]).learning_rates["hidden"][0]
    for name in ("embedding", "first.w", "head"):
        p, update = params[name], moved[0.0][name]
        kept = np.where(update * p > 0, 1.0 - cautious, 1.0)
        expected = update - rate * 0.3 * kept * p
        np.testing.assert_allclose(moved[0.3][name], expected, rtol=1e-3, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(moved[0.3]["first.bias"], moved[0.0]["first.bias"])
