"""Protects the language models of the benchmark."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from celo2.tasks.blocks import attention
from celo2.tasks.gpt import GPT
from celo2.tasks.gru import GRU
from celo2.tasks.moe import MixtureOfExperts, load_balance, mixture, rotated, routing
from celo2.tasks.text_sets import TextWindows
from tests.tasks.learning import adamw

pytestmark = pytest.mark.slow

VOCABULARY = 12


@pytest.fixture(scope="module")
def counting():
    """0, 1, 2, ... again and again: the next token follows from the last."""
    text = jnp.arange(2000, dtype=jnp.uint16) % VOCABULARY
    return TextWindows(text, text, context=8, batch_size=8, vocabulary=VOCABULARY)


NETWORKS = {
    "gpt": functools.partial(GPT, width=32, depth=1),
    "gru": functools.partial(GRU, embedding_width=8, width=16),
    "moe": functools.partial(MixtureOfExperts, width=32, depth=1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_language_model_learns_to_count(name, counting):
    before, after = adamw(NETWORKS[name](counting), steps=60)
    assert abs(before["loss"] - np.log(VOCABULARY)) < 0.7
    assert after["loss"] < 0.5 * before["loss"]


def test_a_gpt_sees_no_token_after_the_one_it_predicts_from(counting):
    model = GPT(counting, width=32, depth=2)
    params = jax.jit(model.init_params)(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (2, 8), 0, VOCABULARY)
    changed = tokens.at[:, 5].set((tokens[:, 5] + 1) % VOCABULARY)
    difference = jax.jit(model.logits)(params, tokens) - jax.jit(model.logits)(params, changed)
    assert abs(difference[:, :5]).max() < 1e-5
    assert abs(difference[:, 5:]).max() > 1e-3


def test_attention_is_torchs():
    drawn = np.random.default_rng(0).normal(size=(3, 2, 5, 64)).astype(np.float32)
    heads = [torch.tensor(x).reshape(2, 5, 2, 32).transpose(1, 2) for x in drawn]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
    found = attention(*map(jnp.asarray, drawn), causal=True)
    np.testing.assert_allclose(found, expected.transpose(1, 2).reshape(2, 5, 64), atol=1e-5)


def test_the_recurrence_is_torchs(counting):
    """The gates are r, z and n in both; torch calls the second bias of n the one that r scales."""
    model = GRU(counting, embedding_width=8, width=16)
    theirs = torch.nn.GRU(8, 16, batch_first=True)
    params = {}
    with torch.no_grad():
        theirs.bias_hh_l0[:32] = 0
        params["recurrent.w"] = jnp.asarray(theirs.weight_hh_l0.T.numpy())
        params["recurrent.b"] = jnp.asarray(theirs.bias_hh_l0[32:].numpy())
        x = torch.randn(2, 5, 8)
        inputs = x @ theirs.weight_ih_l0.T + theirs.bias_ih_l0
        expected = theirs(x)[0].numpy()
    found = model.states(params, jnp.asarray(inputs.numpy()))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_each_token_goes_to_its_most_probable_experts_with_weights_that_sum_to_one():
    probabilities = jnp.array([[0.1, 0.4, 0.2, 0.3], [0.7, 0.1, 0.15, 0.05]])
    expected = [[0, 4 / 7, 0, 3 / 7], [14 / 17, 0, 3 / 17, 0]]
    np.testing.assert_allclose(routing(probabilities, 2), expected, rtol=1e-6)


def test_the_balancing_loss_is_one_for_an_even_load_and_the_number_of_experts_for_one_expert():
    even, one = jnp.eye(4), jnp.eye(4)[jnp.zeros(4, int)]
    np.testing.assert_allclose(load_balance(even, even), 1)
    np.testing.assert_allclose(load_balance(one, one), 4)


def test_a_mixture_is_the_weighted_sum_of_its_experts():
    """Against a loop over tokens and experts."""
    rng = np.random.default_rng(0)
    experts = {name: rng.normal(size=(3, 4, 4)) for name in ("gate", "up", "down")}
    weights, x = rng.uniform(size=(1, 5, 3)), rng.normal(size=(1, 5, 4))
    expected = np.zeros((1, 5, 4))
    for t in range(5):
        for e in range(3):
            gate, up = (x[0, t] @ experts[name][e] for name in ("gate", "up"))
            hidden = gate / (1 + np.exp(-gate)) * up
            expected[0, t] += weights[0, t, e] * (hidden @ experts["down"][e])
    found = mixture(experts, jnp.asarray(weights), jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_products_of_rotated_vectors_depend_on_their_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 32))
    rows = [rotated(jnp.broadcast_to(x, (1, 6, 32)))[0] for x in (q, k)]
    products = rows[0] @ rows[1].T
    for distance in range(-5, 6):
        diagonal = jnp.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
    assert products.std() > 0.1
