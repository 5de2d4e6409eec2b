"""Protects the lean rule: it is the published one without the features it lacks, by the oracle, in
both front ends, and its state is half as large."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from celo2 import Theta, load_theta
from celo2.jax import scale_by_celo2
from celo2.rule import LEAN, Spec, Weights, channel_names
from celo2.torch import Celo2
from celo2.torch.kernels import Limits
from tests.cases import REFERENCE, SHAPES, THETA, draw
from tests.oracle import oracle_steps
from tests.torch.test_update import torch_layout

DECAYS = (0.9, 0.99)  # two of those that the oracle has
SPEC = dataclasses.replace(LEAN, momentum_decays=DECAYS, factored_decays=DECAYS)
KEPT = [channel_names(Spec()).index(name) for name in channel_names(SPEC)]
LEAN_THETA = Theta(THETA.weights._replace(w0=THETA.weights.w0[KEPT]), SPEC, "lean")


def silenced():
    """The nineteen arrays of the authors, with zeros for the channels that the lean rule lacks."""
    w0 = np.zeros_like(THETA.weights.w0)
    w0[KEPT] = THETA.weights.w0[KEPT]
    arrays, start = {**REFERENCE}, 0
    for i in range(14):
        end = start + len(REFERENCE[f"w0__{i}"])
        arrays[f"w0__{i}"], start = w0[start:end], end
    return arrays


@pytest.mark.parametrize("tile", [7, 65536])
@pytest.mark.parametrize("name", SHAPES)
def test_torch_after_twenty_steps(name, tile):
    w, grads = draw(SHAPES[name])
    p = torch.nn.Parameter(torch.from_numpy(torch_layout(w)))
    axes = (1, 0) if p.ndim > 2 else None
    optimizer = Celo2([{"params": [p], "rule": "celo2", "axes": axes}], lr=0.01, theta=LEAN_THETA)
    optimizer.limits = Limits(tile=tile)
    for g in grads:
        p.grad = torch.from_numpy(torch_layout(g))
        optimizer.step()
    _, expected = oracle_steps(silenced(), grads, w, True)
    np.testing.assert_allclose(p.detach().numpy(), torch_layout(expected[-1]), rtol=0, atol=1e-5)
    averages = optimizer.state[p]["averages"]
    assert averages.numel() * averages.element_size() == 8 * p.numel()


@pytest.mark.parametrize("name", ["vector", "tall", "wide", "batched"])
def test_jax_after_twenty_steps(name):
    w, grads = draw(SHAPES[name])
    optimizer = scale_by_celo2(LEAN_THETA)
    p, state = jnp.asarray(w), optimizer.init(w)
    update = jax.jit(optimizer.update)
    for g in grads:
        u, state = update(jnp.asarray(g), state, p)
        p = p - 0.01 * u
    _, expected = oracle_steps(silenced(), grads, w, True)
    np.testing.assert_allclose(p, expected[-1], rtol=0, atol=1e-5)
    assert state.averages.shape == (2, *np.shape(w))


@pytest.mark.parametrize("features", [("G", "M"), ("G F", "M F"), ("M s", "1/sqrt(R)")])
def test_front_ends_agree_on_any_features(features):
    """Also where there is nothing of a kind: no plain channel, no factored one, no V."""
    spec = Spec(features=features)
    theta = Theta.random(3, spec)
    w, grads = draw((6, 9), steps=5)
    optimizer = scale_by_celo2(theta)
    ours, state = jnp.asarray(w), optimizer.init(w)
    p = torch.nn.Parameter(torch.from_numpy(torch_layout(w)))
    other = Celo2([{"params": [p], "rule": "celo2"}], lr=0.01, theta=theta)
    for g in grads:
        u, state = optimizer.update(jnp.asarray(g), state, ours)
        ours = ours - 0.01 * u
        p.grad = torch.from_numpy(torch_layout(g))
        other.step()
    np.testing.assert_allclose(torch_layout(ours), p.detach().numpy(), rtol=0, atol=1e-5)
    assert np.abs(ours - w).max() > 0.01


def test_bfloat16_state_has_4_bytes_per_parameter_and_the_same_bits_in_both():
    w, grads = draw((6, 9), steps=5)
    optimizer = scale_by_celo2(LEAN_THETA, state_dtype=jnp.bfloat16)
    state = optimizer.init(w)
    p = torch.nn.Parameter(torch.from_numpy(torch_layout(w)))
    options = {"lr": 0.0, "theta": LEAN_THETA, "state_dtype": torch.bfloat16}
    other = Celo2([{"params": [p], "rule": "celo2"}], **options)
    for g in grads:
        _, state = optimizer.update(jnp.asarray(g), state, jnp.asarray(w))
        p.grad = torch.from_numpy(torch_layout(g))
        other.step()
    theirs = other.state[p]["averages"]
    assert theirs.element_size() * theirs.numel() == 4 * p.numel()
    np.testing.assert_array_equal(state.averages.astype(np.float32), theirs.float().mT.numpy())


def test_a_lean_theta_is_saved_and_loaded(tmp_path):
    LEAN_THETA.save(tmp_path / "lean.safetensors")
    again = load_theta(tmp_path / "lean.safetensors")
    assert again.spec == SPEC
    assert isinstance(again.weights, Weights)
    assert again.identity == LEAN_THETA.identity


def test_the_shipped_one_has_half_the_state_and_the_policy_of_celo2():
    lean, full = load_theta("celo2-lean"), load_theta("celo2")
    assert lean.spec == LEAN
    assert lean.policy == full.policy
    model = torch.nn.Linear(64, 64, bias=False)
    sizes = []
    for theta in (lean, full):
        optimizer = Celo2([{"params": [model.weight], "rule": "celo2"}], lr=1e-3, theta=theta)
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
        sizes.append(optimizer.state[model.weight]["averages"].numel())
    assert sizes == [2 * 64 * 64, 4 * 64 * 64]
