"""Protects the published weights in use: they train a small network as their authors' code does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from celo2.baselines import celo, celo_adam
from tests.baselines.golden import FILES, Case

BATCH, STEPS = 64, 280


def batches():
    """Rows in file order, 28 batches a pass; the last five rows are not used."""
    digits = load_digits()
    count = len(digits.data) // BATCH
    rows = np.arange(STEPS * BATCH) % (count * BATCH)
    images, labels = digits.data[rows] / 16, digits.target[rows]
    images = jnp.asarray(images, jnp.float32).reshape(STEPS, BATCH, -1)
    return images, jnp.asarray(labels).reshape(STEPS, BATCH)


def loss(params, images, labels):
    hidden = jax.nn.relu(images @ params["w0"] + params["b0"])
    logits = hidden @ params["w1"] + params["b1"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(optimizer, params):
    """The training loss at each step."""

    def step(carry, batch):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, *batch)
        updates, state = optimizer.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    scan = jax.jit(lambda carry, xs: jax.lax.scan(step, carry, xs)[1])
    return scan((params, optimizer.init(params)), batches())


@pytest.mark.parametrize("make", [celo, celo_adam])
def test_trains_as_the_authors_implementation_does(make):
    """A run of its own drifts away after some tens of steps, but comes to the same loss."""
    case = Case("celo_digits", f"{make.__name__}_digits_10")
    params = jax.tree.map(jnp.asarray, case.tree("params0"))
    expected = FILES["celo_digits"][f"curve/{make.__name__}"]
    losses = train(make(STEPS), params)
    np.testing.assert_allclose(losses[:30], expected[:30], rtol=1e-3)
    assert np.mean(losses[-10:]) == pytest.approx(0.073, abs=0.003)
