"""Protects PPO: its advantages, its gradient, on-policy rollouts, returns, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo2.errors import InputError
from celo2.jax import route
from celo2.tasks.rl.environments import Environments, Outcome
from celo2.tasks.rl.ppo import PPO
from celo2.tasks.rl.rollout import advantages
from tests.tasks.learning import adamw

pytestmark = pytest.mark.slow

SMALL = PPO("CartPole-v1", 4, 16, epochs=2, minibatches=2, width=8, activation="tanh", window=3)
USES = 4


init = jax.jit(SMALL.init)
loss = jax.jit(SMALL.loss)

POLICY_ALONE = dataclasses.replace(SMALL, value_weight=0.0, entropy_weight=0.0)
policy_gradient = jax.jit(jax.grad(POLICY_ALONE.minibatch_loss))


def started(seed=0):
    """Weights, state before and after the first loss, which collects a rollout."""
    params, state = init(jax.random.key(seed), ())
    return params, state, loss(params, state, (), jax.random.key(seed + 1))[1]


def log_policy(params, observations):
    """The policy by plain NumPy."""
    logits = mlp("actor", params, observations)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def mlp(name, params, x):
    for layer in ("0", "1"):
        x = np.tanh(np.asarray(x) @ params[f"{name}.{layer}.w"] + params[f"{name}.{layer}.b"])
    return x @ params[f"{name}.head.w"] + params[f"{name}.head.b"]


def test_advantages_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 7, 3))
    ended, last = rng.random((7, 3)) < 0.3, rng.normal(size=3)
    expected = np.zeros((7, 3))
    for n in range(3):
        advantage = 0.0
        for t in reversed(range(7)):
            following = last[n] if t == 6 else values[t + 1, n]
            if ended[t, n]:
                advantage, following = 0.0, 0.0
            error = rewards[t, n] + 0.9 * following - values[t, n]
            advantage = error + 0.9 * 0.8 * advantage
            expected[t, n] = advantage
    outcome = Outcome(jnp.asarray(rewards), jnp.asarray(ended), jnp.zeros((7, 3)))
    found = advantages(outcome, jnp.asarray(values), jnp.asarray(last), 0.9, 0.8)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_advantage_of_one_step_by_hand():
    """1 + 0.5 * 4 - 2 = 1 where the episode goes on, 1 - 2 = -1 where it ended."""
    outcome = Outcome(jnp.ones((1, 2)), jnp.array([[False, True]]), jnp.zeros((1, 2)))
    found = advantages(outcome, jnp.full((1, 2), 2.0), jnp.full(2, 4.0), 0.5, 0.9)
    np.testing.assert_allclose(found, [[1, -1]])


def test_the_gradient_at_the_rollouts_own_weights_is_the_policy_gradient():
    """There all ratios are 1; the oracle differentiates -A log pi, A normalized."""
    params, _, state = started()
    then, a = state.batch.decisions, state.batch.advantages
    a = (a - a.mean()) / a.std()

    def policy_loss(params):
        h = then.observations
        for layer in ("0", "1"):
            h = jnp.tanh(h @ params[f"actor.{layer}.w"] + params[f"actor.{layer}.b"])
        logits = h @ params["actor.head.w"] + params["actor.head.b"]
        taken = jnp.take_along_axis(jax.nn.log_softmax(logits), then.actions[:, None], 1)
        return -(a * taken[:, 0]).mean()

    found = policy_gradient(params, state.batch)
    expected = jax.jit(jax.grad(policy_loss))(params)
    for name in params:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-6)
    assert abs(found["actor.head.w"]).max() > 1e-2


def test_a_ratio_beyond_the_clip_has_no_gradient_where_that_would_go_further():
    """Actions made e^1 times as likely already: only what was worse than expected is corrected."""
    params, _, state = started()
    then = state.batch.decisions
    likelier = then._replace(log_probabilities=then.log_probabilities - 1)
    a = jnp.where(jnp.arange(SMALL.rows) < SMALL.rows // 2, 1.0, -1.0)
    found = policy_gradient(params, state.batch._replace(decisions=likelier, advantages=a))
    expected = np.zeros(2)
    policy = np.exp(log_policy(params, then.observations))
    for row in range(SMALL.rows // 2, SMALL.rows):
        one_hot = np.eye(2)[int(then.actions[row])]
        expected += np.e * (one_hot - policy[row]) / SMALL.rows
    np.testing.assert_allclose(found["actor.head.b"], expected, rtol=1e-3, atol=1e-5)


def test_the_loss_is_that_of_ppo():
    """By plain NumPy, for a batch of another policy: some ratios and values are clipped."""
    params, _, state = started()
    wave = 0.4 * jnp.sin(jnp.arange(SMALL.rows))
    then, a = state.batch.decisions, np.asarray(state.batch.advantages)
    then = then._replace(log_probabilities=then.log_probabilities + wave, values=wave)
    log_probabilities = log_policy(params, then.observations)
    taken = log_probabilities[np.arange(SMALL.rows), then.actions]
    ratio = np.exp(taken - then.log_probabilities)
    normalized = (a - a.mean()) / a.std()
    surrogate = np.minimum(ratio * normalized, np.clip(ratio, 0.8, 1.2) * normalized).mean()

    values, before = mlp("critic", params, then.observations)[:, 0], np.asarray(then.values)
    clipped = before + np.clip(values - before, -0.2, 0.2)
    target = before + a
    value_loss = np.maximum((values - target) ** 2, (clipped - target) ** 2).mean() / 2
    entropy = -(np.exp(log_probabilities) * log_probabilities).sum(1).mean()
    assert 0 < (abs(ratio - 1) > 0.2).mean() < 1
    assert 0 < (clipped != values).mean() < 1

    expected = -surrogate + 0.5 * value_loss - 0.01 * entropy
    found = jax.jit(SMALL.minibatch_loss)(params, state.batch._replace(decisions=then))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_rollouts_are_by_the_weights_of_the_step_that_collects_them():
    params, state, _ = started()
    seen = []
    for step in range(2 * USES):
        before = state
        _, state = loss(params, state, (), jax.random.key(step))
        then = state.batch.decisions
        if step % USES == 0:
            taken = log_policy(params, then.observations)[np.arange(SMALL.rows), then.actions]
            np.testing.assert_allclose(then.log_probabilities, taken, rtol=1e-4)
            seen.append(np.asarray(then.observations))
        else:
            np.testing.assert_array_equal(then.observations, before.batch.decisions.observations)
        params = jax.tree.map(lambda p: p + 0.1, params)
    assert not np.array_equal(*seen)


def test_an_epoch_uses_each_row_once_in_an_order_of_its_own():
    *_, state = started()
    epochs = np.asarray(state.order).reshape(2, -1)
    np.testing.assert_array_equal(np.sort(epochs), [np.arange(SMALL.rows)] * 2)
    assert not np.array_equal(*epochs)


def test_returns_are_those_of_the_episodes_that_ended():
    """CartPole gives 1 per step, so a return is a length; counted here step by step."""
    environments = Environments("CartPole-v1", 3)
    step = jax.jit(environments.step)
    actors = jax.jit(environments.reset)(jax.random.key(0))
    lengths, finished = np.zeros(3), 0
    for key in jax.random.split(jax.random.key(1), 60):
        actors, outcome = step(key, actors, jnp.ones(3, int))
        lengths += 1
        np.testing.assert_array_equal(outcome.returns, lengths)
        finished += int(outcome.ended.sum())
        lengths[np.asarray(outcome.ended)] = 0
        np.testing.assert_array_equal(actors.returns, lengths)
    assert 10 < finished < 25, "pushed to one side, the pole falls after about ten steps"


def test_the_return_is_the_mean_over_the_last_rollouts():
    params, state, after = started()
    assert SMALL.evaluate(params, state, (), jax.random.key(0))["return"] == 0, "none ended yet"
    for _ in range(USES - 1):
        _, after = loss(params, after, (), jax.random.key(5))
    _, after = loss(params, after, (), jax.random.key(6))
    total, count = after.episodes
    assert (np.asarray(count) > 0).tolist() == [True, True, False]
    metrics = SMALL.evaluate(params, after, (), jax.random.key(0))
    np.testing.assert_allclose(metrics["return"], total.sum() / count.sum(), rtol=1e-6)
    assert metrics["loss"] == -metrics["return"]


def test_the_seed_decides_a_run():
    one, same, other = (started(seed=seed)[2] for seed in (0, 0, 1))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)
    observations = [s.batch.decisions.observations for s in (one, other)]
    assert not np.array_equal(*observations)


def test_seeds_in_one_program_collect_no_more_rollouts_than_alone():
    """A condition that differed by seed would become a selection, with a rollout per minibatch."""

    def runs(keys):
        def one(key):
            params, state = SMALL.init(key, ())
            return jax.grad(SMALL.loss, has_aux=True)(params, state, (), key)

        return jax.vmap(one)(keys)

    program = jax.make_jaxpr(runs)(jax.random.split(jax.random.key(0), 2))
    assert " cond[" in str(program)


def test_hidden_matrices_are_the_rules_and_heads_adamws():
    params, *_ = started()
    rules = {each.name: each.rule for each in route(params)}
    learned = {name for name, rule in rules.items() if rule == "celo2"}
    assert learned == {"actor.0.w", "actor.1.w", "critic.0.w", "critic.1.w"}


def test_cartpole_is_learned():
    """A random policy balances for about 22 steps."""
    family = PPO("CartPole-v1", 8, 64, minibatches=4, activation="tanh", window=10)
    _, after = adamw(family, 40 * family.uses, learning_rate=3e-3)
    assert after["return"] > 60


def test_a_game_of_minatar_gives_every_parameter_a_gradient():
    family = PPO("Breakout-MinAtar", 8, 16, epochs=1, minibatches=1)

    @jax.jit
    def first_gradient(key):
        params, state = family.init(key, ())
        return jax.grad(family.loss, has_aux=True)(params, state, (), key)[0]

    for name, g in first_gradient(jax.random.key(0)).items():
        assert np.isfinite(g).all()
        assert abs(g).max() > 0, name


def test_an_unknown_environment_is_named():
    with pytest.raises(InputError, match="no environment 'Chess': take one of CartPole-v1, "):
        PPO("Chess").init(jax.random.key(0), ())
