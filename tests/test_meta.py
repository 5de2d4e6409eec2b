"""Protects meta-training: the inner loop is the rule, the meta-gradient is a gradient, and a cut run ends as an uncut one."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo2 import InputError, Spec
from celo2.meta import inner, outer
from celo2.meta.config import PRESETS, MetaConfig, preset
from celo2.meta.estimators import unrolled
from celo2.rule import Weights
from tests.cases import REFERENCE, THETA
from tests.oracle import oracle_steps


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quadratic:
    """A family in a few lines: bring W and b to targets; a task is the pair of targets."""

    targets: jax.Array = dataclasses.field(default_factory=lambda: jnp.ones(()))

    def sample(self, key):
        return jax.random.normal(key, (4, 3))

    def init(self, key, task):
        return {"w": 0.1 * jax.random.normal(key, (4, 3)), "b": jnp.zeros(3)}

    def batch(self, key, task):
        return 0.1 * jax.random.normal(key, (4, 3))

    def loss(self, params, task, batch):
        return jnp.mean(jnp.square(params["w"] + params["b"] - self.targets * task - batch))


FAMILY = Quadratic()
LOOP = inner.InnerLoop(learning_rate=0.01, horizon=(20, 60))
CONFIG = MetaConfig(inner=LOOP, outer_iterations=30, truncation_length=10, trajectories=4, warmup=5, learning_rate=1e-2)


def replay(grads, start, orthogonalize):
    """The parameter after these gradients, by the oracle."""
    return oracle_steps(REFERENCE, grads, np.array(start), orthogonalize, lr=0.01)[1][-1]


@pytest.mark.parametrize("orthogonalize", [True, False])
def test_the_inner_loop_is_the_rule_and_adam(orthogonalize):
    loop = dataclasses.replace(LOOP, spec=Spec(orthogonalize=orthogonalize), adam_multiplier=5.0)
    theta = jax.tree.map(jnp.asarray, THETA.weights)
    trajectory = inner.start(loop, FAMILY, jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 6)
    losses, after = inner.unroll(loop, FAMILY, theta, trajectory, keys)

    params, grads = trajectory.params, []
    first, second = np.zeros(3), np.zeros(3)
    w, b = np.array(params["w"], np.float64), np.array(params["b"], np.float64)
    for t, key in enumerate(keys):
        batch = FAMILY.batch(key, trajectory.task)
        loss, g = jax.value_and_grad(FAMILY.loss)(
            {"w": jnp.asarray(w, jnp.float32), "b": jnp.asarray(b, jnp.float32)}, trajectory.task, batch
        )
        np.testing.assert_allclose(losses[t], loss, rtol=1e-4)
        grads.append(jax.tree.map(np.asarray, g))
        w = replay([x["w"] for x in grads], params["w"], orthogonalize)
        if orthogonalize:
            first, second = 0.9 * first + 0.1 * g["b"], 0.95 * second + 0.05 * g["b"] ** 2
            b = b - 0.01 * 5.0 * first / np.sqrt(second + 1e-8)
        else:
            b = replay([x["b"] for x in grads], params["b"], False)
    np.testing.assert_allclose(after.params["w"], w, atol=1e-5)
    np.testing.assert_allclose(after.params["b"], b, atol=1e-5)


def test_the_meta_gradient_agrees_with_finite_differences():
    """In float64, along random directions, on one trajectory whose clip is out of reach."""
    with jax.enable_x64(True):
        theta = Weights(*(jnp.asarray(w, jnp.float64) for w in THETA.weights))
        trajectories = jax.vmap(lambda key: inner.start(LOOP, FAMILY, key))(jax.random.split(jax.random.key(0), 1))
        trajectories = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, trajectories)
        keys = jax.random.split(jax.random.key(1), (1, 5))

        @jax.jit
        def estimate(theta):
            gradient, losses, _ = unrolled.estimate(LOOP, 1e9, FAMILY, theta, trajectories, keys)
            return gradient, losses.mean()

        gradient = estimate(theta)[0]
        rng = np.random.default_rng(0)
        for _ in range(3):
            direction = Weights(*(jnp.asarray(rng.standard_normal(w.shape)) for w in theta))
            step = 1e-6
            moved = [estimate(jax.tree.map(lambda t, d, s=s: t + s * d, theta, direction))[1] for s in (step, -step)]
            numeric = (moved[0] - moved[1]) / (2 * step)
            analytic = sum(jnp.vdot(g, d) for g, d in zip(gradient, direction, strict=True))
            np.testing.assert_allclose(analytic, numeric, rtol=1e-4, atol=1e-9)


def test_each_trajectory_is_clipped_before_the_mean():
    theta = jax.tree.map(jnp.asarray, THETA.weights)
    keys = jax.random.split(jax.random.key(0), 2)
    trajectories = jax.vmap(lambda key: inner.start(LOOP, FAMILY, key))(keys)
    steps = jax.random.split(jax.random.key(1), (2, 5))

    estimate = jax.jit(unrolled.estimate, static_argnums=0)

    def norm(clip, index):
        one = jax.tree.map(lambda x: x[index][None], trajectories)
        gradient = estimate(LOOP, clip, FAMILY, theta, one, steps[index][None])[0]
        return np.sqrt(sum(float(jnp.sum(g**2)) for g in gradient)), gradient

    big = max(norm(1e9, i)[0] for i in range(2))
    clip = big / 10
    np.testing.assert_allclose(norm(clip, int(norm(1e9, 1)[0] == big))[0], clip, rtol=1e-4)
    together = estimate(LOOP, clip, FAMILY, theta, trajectories, steps)[0]
    alone = [norm(clip, i)[1] for i in range(2)]
    for mean, a, b in zip(together, *alone, strict=True):
        np.testing.assert_allclose(mean, (a + b) / 2, atol=1e-6)


def test_a_loss_that_is_not_a_number_is_the_ceiling_and_has_no_gradient():
    losses = jnp.array([0.5, jnp.nan, 1e9, -1.0])
    np.testing.assert_allclose(inner.clipped(LOOP, losses), [0.5, LOOP.loss_ceiling, LOOP.loss_ceiling, 0.0])
    np.testing.assert_array_equal(jax.grad(lambda x: inner.clipped(LOOP, x).sum())(losses), [1, 0, 0, 0])


def test_trajectories_are_renewed_at_their_horizon_and_only_there():
    state = outer.begin(CONFIG, FAMILY)
    trajectories = state.trajectories._replace(step=state.trajectories.horizon - jnp.array([0, 1, 5, -3]))
    after = outer.renew(CONFIG, FAMILY, trajectories, jax.random.key(5))
    renewed = np.array([True, False, False, True])
    np.testing.assert_array_equal(after.step == 0, renewed)
    np.testing.assert_array_equal((after.params["w"] == trajectories.params["w"]).all((1, 2)), ~renewed)
    low, high = LOOP.horizon
    assert ((after.horizon >= low) & (after.horizon <= high)).all()


def test_meta_training_lowers_the_meta_loss(tmp_path):
    loop = dataclasses.replace(LOOP, learning_rate=0.05, adam_multiplier=1.0)
    config = dataclasses.replace(CONFIG, inner=loop, outer_iterations=150)
    losses = [m.meta_loss for m in outer.run(config, FAMILY, tmp_path)]
    assert np.mean(losses[-30:]) < 0.8 * np.mean(losses[:30])


def test_a_run_that_was_cut_ends_bit_identical(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for _ in outer.run(CONFIG, FAMILY, whole):
        pass
    for stop in (7, 13, None):
        run = outer.run(CONFIG, FAMILY, cut)
        for _ in itertools.islice(run, stop):
            pass
        run.close()
    expected, _ = outer.theta_of(CONFIG, whole, FAMILY)
    found, _ = outer.theta_of(CONFIG, cut, FAMILY)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)
    lines = [[json.loads(line) for line in (d / "metrics.jsonl").read_text().splitlines()] for d in (whole, cut)]
    assert [x["meta_loss"] for x in lines[0]] == [x["meta_loss"] for x in lines[1]]


def test_another_configuration_is_refused_with_the_difference_named(tmp_path):
    next(outer.run(CONFIG, FAMILY, tmp_path))
    with pytest.raises(InputError, match="another configuration \\(trajectories was 4, now 5\\); give another --out"):
        next(outer.run(dataclasses.replace(CONFIG, trajectories=5), FAMILY, tmp_path))


def test_presets():
    assert set(PRESETS) == {"quick", "celo2", "celo2-base"}
    assert not preset("celo2-base").inner.spec.orthogonalize
    with pytest.raises(InputError, match="unknown preset 'slow': take one of quick, celo2, celo2-base"):
        preset("slow")
