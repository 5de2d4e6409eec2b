"""Protects the inner loop: it is the rule and Adam, from start to horizon."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo2 import InputError, Spec, load_theta
from celo2.jax import celo2
from celo2.meta import inner
from celo2.meta.learners import Run
from celo2.meta.starts import STARTS
from celo2.meta.symmetry import project
from celo2.policy import plan
from tests.cases import REFERENCE, THETA, draw
from tests.meta.settings import FAMILY, LOOP
from tests.oracle import oracle_steps

pytestmark = pytest.mark.slow


def replay(grads, start, orthogonalize):
    """The parameter after these gradients, by the oracle."""
    return oracle_steps(REFERENCE, grads, np.array(start), orthogonalize, lr=0.01)[1][-1]


@pytest.mark.parametrize("orthogonalize", [True, False])
def test_the_inner_loop_is_the_rule_and_adam(orthogonalize):
    loop = dataclasses.replace(
        LOOP,
        spec=Spec(newton_schulz=orthogonalize, everywhere=not orthogonalize),
        adamw_lr_multiplier=5.0,
    )
    theta = jax.tree.map(jnp.asarray, THETA.weights)
    trajectory = inner.start(loop, FAMILY, jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 6)
    steps, after = inner.unroll(loop, FAMILY, theta, trajectory, trajectory, keys)

    params, grads = trajectory.params, []
    first, second = np.zeros(3), np.zeros(3)
    w, b = np.array(params["w"], np.float64), np.array(params["b"], np.float64)
    for t, key in enumerate(keys):
        now = {"w": jnp.asarray(w, jnp.float32), "b": jnp.asarray(b, jnp.float32)}
        batch_key = jax.random.split(key)[0]
        (loss, _), g = jax.value_and_grad(FAMILY.loss, has_aux=True)(
            now, (), trajectory.task, batch_key
        )
        np.testing.assert_allclose(steps.loss[t], loss, rtol=1e-4)
        grads.append(jax.tree.map(np.asarray, g))
        w = replay([x["w"] for x in grads], params["w"], orthogonalize)
        if orthogonalize:
            first, second = 0.9 * first + 0.1 * g["b"], 0.95 * second + 0.05 * g["b"] ** 2
            b = b - 0.01 * 5.0 * first / np.sqrt(second + 1e-8)
        else:
            b = replay([x["b"] for x in grads], params["b"], False)
    np.testing.assert_allclose(after.params["w"], w, atol=1e-5)
    np.testing.assert_allclose(after.params["b"], b, atol=1e-5)


def test_with_the_adam_of_the_front_end_all_updates_are_those_of_the_front_end():
    shapes = {"conv": (3, 3, 4, 8), "w": (6, 10), "b": (10,), "embedding": (7, 6), "head": (10, 3)}
    drawn = {name: draw(shape, 3, seed) for seed, (name, shape) in enumerate(shapes.items())}
    params = {name: jnp.asarray(p) for name, (p, _) in drawn.items()}
    loop = dataclasses.replace(LOOP, adam="front-end", adamw_lr_multiplier=5.0)
    optimizer = celo2(1.0, adamw_lr_multiplier=5.0, theta=THETA)
    statistics, state = loop.optimizer.init(params), optimizer.init(params)
    theta = jax.tree.map(jnp.asarray, THETA.weights)
    inner_update = jax.jit(functools.partial(loop.optimizer.update, theta, params))
    run = Run(jnp.zeros(()), jnp.zeros((), int))  # the rule does not read it
    front_end_update = jax.jit(optimizer.update)
    for step in range(3):
        grads = {name: jnp.asarray(g[step]) for name, (_, g) in drawn.items()}
        updates, statistics = inner_update(statistics, grads, run)
        expected, state = front_end_update(grads, state, params)
        for name in shapes:
            np.testing.assert_allclose(updates[name], -expected[name], atol=2e-5, err_msg=name)


BY_POLICY = dataclasses.replace(LOOP, policy="celo2", adam="front-end", learning_rate=(1.0, 1.0))


def test_by_a_policy_networks_are_trained_as_by_total_steps():
    """Six inner steps, and the same by the front end with the horizon as the number of steps."""
    theta = load_theta("celo2")
    one = inner.start(BY_POLICY, FAMILY, jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 6)
    weights = jax.tree.map(jnp.asarray, theta.weights)
    _, after = inner.unroll(BY_POLICY, FAMILY, weights, one, one, keys)
    optimizer = celo2(total_steps=int(one.horizon))
    params, state = one.params, optimizer.init(one.params)
    for key in keys:
        (batch_key, _), gradient = jax.random.split(key), jax.grad(FAMILY.loss, has_aux=True)
        grads, _ = gradient(params, (), one.task, batch_key)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    for name, p in params.items():
        np.testing.assert_allclose(after.params[name], p, atol=1e-6)
        assert np.abs(p - one.params[name]).max() > 1e-4

    # At a learning rate of 2 the first update is twice as large.
    def first_updates(trajectory):
        _, after = inner.unroll(BY_POLICY, FAMILY, weights, trajectory, trajectory, keys[:1])
        return {name: after.params[name] - p for name, p in one.params.items()}

    first, doubled = first_updates(one), first_updates(one._replace(learning_rate=jnp.array(2.0)))
    # Of a network that joins in the middle of its run, it is that of the middle.
    middle = first_updates(one._replace(step=one.horizon // 2))
    shown = plan(theta.required_policy(), int(one.horizon), (0, int(one.horizon) // 2))
    for name, kind in (("w", "hidden"), ("b", "vector")):
        np.testing.assert_allclose(doubled[name], 2 * first[name], rtol=1e-3, atol=1e-7)
        at_first, later = shown.learning_rates[kind]
        np.testing.assert_allclose(middle[name], later / at_first * first[name], rtol=2e-2)


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_policy_scales_every_kind_of_parameter_as_the_front_end_does(everywhere):
    """A wide model of small weights, so that no factor of the policy is 1."""
    shapes = {"wide": (300, 200), "b": (200,), "embedding": (7, 6), "head": (200, 3)}
    spec = Spec(newton_schulz=not everywhere, everywhere=everywhere)
    theta = dataclasses.replace(load_theta("celo2"), spec=spec)
    params, grads = {}, {}
    for seed, (name, shape) in enumerate(shapes.items()):
        p, (g,) = draw(shape, 1, seed)
        params[name], grads[name] = jnp.asarray(0.05 * p), jnp.asarray(g)
    loop = dataclasses.replace(BY_POLICY, spec=spec)
    weights = jax.tree.map(jnp.asarray, theta.weights)
    horizon, step = jnp.int32(50), jnp.int32(0)
    by_policy, run = loop.scaling(horizon, step), Run(jnp.zeros(()), horizon)
    optimizer = celo2(total_steps=50, theta=theta)

    @jax.jit
    def both(params, grads):
        learned = loop.optimizer
        updates, _ = learned.update(weights, params, learned.init(params), grads, run)
        found, _ = by_policy.update(updates, by_policy.init(params), params)
        expected, _ = optimizer.update(grads, optimizer.init(params), params)
        return found, expected

    for name, (found, expected) in zip(shapes, _paired(*both(params, grads)), strict=True):
        np.testing.assert_allclose(found, -expected, rtol=1e-3, atol=1e-8, err_msg=name)


def _paired(found, expected):
    return [(found[name], expected[name]) for name in found]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cosine": True}, "the policy of celo2 has a schedule of its own; leave cosine off"),
        ({"learning_rate": (2e-3, 2e-2)}, r"from 0.002 to 0.02, but with a policy it is a factor"),
        ({"adam": "published"}, "learner='rule', adam='published'; give 'rule' and 'front-end'"),
        ({"learner": "velo"}, "learner='velo', adam='front-end'; give 'rule' and 'front-end'"),
    ],
)
def test_what_a_policy_sets_is_refused_elsewhere(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(BY_POLICY, **changes)


def test_a_loss_that_is_not_a_number_is_the_ceiling_and_has_no_gradient():
    losses = jnp.array([0.5, jnp.nan, 1e9, -1.0])
    np.testing.assert_allclose(
        inner.clipped(LOOP, losses), [0.5, LOOP.loss_ceiling, LOOP.loss_ceiling, 0.0]
    )
    np.testing.assert_array_equal(
        jax.grad(lambda x: inner.clipped(LOOP, x).sum())(losses), [1, 0, 0, 0]
    )


def test_a_trajectory_ends_at_its_horizon_in_the_middle_of_an_unroll():
    theta = jax.tree.map(jnp.asarray, THETA.weights)
    old, fresh = (inner.start(LOOP, FAMILY, jax.random.key(seed)) for seed in (0, 7))
    keys = jax.random.split(jax.random.key(1), 10)
    steps, after = inner.unroll(
        LOOP, FAMILY, theta, old._replace(step=old.horizon - 4), fresh, keys
    )
    np.testing.assert_array_equal(steps.ended, [False] * 4 + [True] * 6)
    alone, expected = inner.unroll(LOOP, FAMILY, theta, fresh, old, keys[4:])
    np.testing.assert_allclose(steps.loss[4:], alone.loss, rtol=1e-5)
    np.testing.assert_allclose(after.params["w"], expected.params["w"], atol=1e-6)
    assert (after.step, after.horizon) == (6, fresh.horizon)


def test_horizons_and_learning_rates_come_from_their_ranges():
    for distribution, median in (("log-uniform", np.sqrt(100 * 2000)), ("uniform", 1050)):
        loop = inner.InnerLoop(
            horizon=(100, 2000), horizon_distribution=distribution, learning_rate=(1e-3, 1e-1)
        )
        drawn = jax.vmap(lambda key, loop=loop: inner.start(loop, FAMILY, key))(
            jax.random.split(jax.random.key(0), 2000)
        )
        assert ((drawn.horizon >= 100) & (drawn.horizon <= 2000)).all()
        np.testing.assert_allclose(np.median(drawn.horizon), median, rtol=0.15)
        assert ((drawn.learning_rate >= 0.99e-3) & (drawn.learning_rate <= 1.01e-1)).all()
        np.testing.assert_allclose(np.median(drawn.learning_rate), 1e-2, rtol=0.15)


def test_the_cosine_trains_as_a_user_does():
    """Towards a far target Muon's step is constant: W moves by the sum of the learning rates."""
    theta = jax.tree.map(jnp.asarray, project(Spec(), STARTS["muon-1"](0, Spec()).weights))
    moved = []
    for cosine in (False, True):
        loop = inner.InnerLoop(learning_rate=(0.01, 0.01), horizon=(200, 200), cosine=cosine)
        one = inner.start(loop, FAMILY, jax.random.key(0))._replace(task=100 * jnp.ones((4, 3)))
        _, after = inner.unroll(
            loop, FAMILY, theta, one, one, jax.random.split(jax.random.key(1), 200)
        )
        moved.append(float(jnp.sqrt(jnp.mean((after.params["w"] - one.params["w"]) ** 2))))
    np.testing.assert_allclose(moved, [2.0, 1.0], rtol=0.1)
    np.testing.assert_allclose(moved[1] / moved[0], 0.5, rtol=0.02)


def test_linear_weights_grow_from_0_to_2_over_the_horizon():
    theta = jax.tree.map(jnp.asarray, THETA.weights)
    loop = dataclasses.replace(LOOP, weighting="linear", horizon=(20, 20))
    one = inner.start(loop, FAMILY, jax.random.key(0))
    steps, _ = inner.unroll(loop, FAMILY, theta, one, one, jax.random.split(jax.random.key(1), 20))
    np.testing.assert_allclose(steps.weight, (np.arange(20) + 0.5) / 10, rtol=1e-6)


def test_a_range_upside_down_is_refused():
    with pytest.raises(
        InputError, match="horizon is from 9 to 3; give two numbers above 0, the lower one first"
    ):
        inner.InnerLoop(horizon=(9, 3))
