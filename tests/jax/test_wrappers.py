"""Protects what users put around the optimizer: flax linen, flax nnx, equinox, haiku's dicts,
gradient transformations of optax, and orbax, which resumes bit for bit. Each test is an example."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from celo2.jax import MatrixAxes, celo2, route, scale_by_celo2

pytestmark = pytest.mark.slow

X = jnp.asarray(np.random.default_rng(0).standard_normal((16, 4)), jnp.float32)
Y = jnp.sin(X)


def updated_by_the_rule(params):
    return {each.name for each in route(params) if each.rule == "celo2"}


def train(loss, params, optimizer, steps=30):
    """Return the parameters after some steps, and the losses before and after."""
    state, first = optimizer.init(params), loss(params)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, (first, loss(params))


def mean_square(y):
    return jnp.mean(jnp.square(y - Y))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = jax.nn.relu(nn.Dense(4, name="stem")(x))
        return nn.Dense(4, name="head")(x)


def test_flax_linen():
    model = Linen()
    params = model.init(jax.random.key(0), X)
    assert updated_by_the_rule(params) == {"params.stem.kernel"}
    _, (first, last) = train(
        lambda params: mean_square(model.apply(params, X)), params, celo2(1e-2)
    )
    assert last < 0.8 * first


class Model(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Linear(4, 4, rngs=rngs)
        self.head = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(jax.nn.relu(self.stem(x)))


def test_flax_nnx():
    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, celo2(1e-2), wrt=nnx.Param)
    assert updated_by_the_rule(nnx.state(model, nnx.Param)) == {"stem.kernel"}

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(lambda model: mean_square(model(X)))(model)
        optimizer.update(model, grads)
        return value

    losses = [step(model, optimizer) for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]


def test_equinox_keeps_fan_out_first():
    model = eqx.nn.MLP(4, 4, 4, 1, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params):
        return mean_square(jax.vmap(eqx.combine(params, static))(X))

    optimizer = celo2(1e-2, axes=MatrixAxes(fan_in=1, fan_out=0))
    _, (first, last) = train(loss, params, optimizer)
    assert last < 0.8 * first


def test_dicts_of_haiku():
    params = {
        "mlp/~/stem": {"w": jnp.eye(4), "b": jnp.zeros(4)},
        "mlp/~/head": {"w": jnp.eye(4), "b": jnp.zeros(4)},
    }

    def loss(params):
        stem, head = params["mlp/~/stem"], params["mlp/~/head"]
        return mean_square(jax.nn.relu(X @ stem["w"] + stem["b"]) @ head["w"] + head["b"])

    assert updated_by_the_rule(params) == {"mlp.stem.w"}
    _, (first, last) = train(loss, params, celo2(1e-2))
    assert last < 0.8 * first


def test_multi_transform_beside_another_optimizer():
    params = {"stem": jnp.eye(4), "other": jnp.ones(4)}
    optimizer = optax.multi_transform(
        {"ours": celo2(1e-2), "theirs": optax.sgd(0.5)}, {"stem": "ours", "other": "theirs"}
    )
    grads = {"stem": X[:4], "other": jnp.ones(4)}
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["other"], -0.5)
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(updates["stem"] ** 2)), 1e-2, rtol=1e-4)


@pytest.mark.parametrize("name", ["plain", "MultiSteps", "inject_hyperparams"])
def test_orbax_resumes_bit_for_bit(name, tmp_path):
    """Through any wrapper: saved after three steps and restored, two more give the same bits."""
    make = {
        "plain": lambda: scale_by_celo2(),
        "MultiSteps": lambda: optax.MultiSteps(scale_by_celo2(), 2),
        "inject_hyperparams": lambda: optax.inject_hyperparams(celo2)(learning_rate=1e-2),
    }
    optimizer = make[name]()
    step = jax.jit(optimizer.update)

    def run(params, state, steps):
        for i in steps:
            updates, state = step({"w": X[i : i + 4]}, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    params = {"w": jnp.eye(4)}
    saved = run(params, optimizer.init(params), range(3))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", saved)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "run", jax.eval_shape(lambda: saved))
    whole, again = run(*saved, range(3, 5)), run(*restored, range(3, 5))
    for x, y in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(x, y)
