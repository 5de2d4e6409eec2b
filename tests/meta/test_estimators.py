"""Protects the meta-gradient: unrolled against finite differences, PES against its definition."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from evosax.algorithms import PersistentES

from celo2 import InputError, rule
from celo2.jax.newton_schulz import orthogonalize
from celo2.meta import inner
from celo2.meta.estimators import ES, PES, Unrolled
from celo2.meta.learners import Run
from celo2.rule import Weights
from celo2.theta import Theta
from tests.cases import THETA
from tests.families import Bandit, BatchNorm, Fixed, Quadratic

pytestmark = pytest.mark.slow

FAMILY = Quadratic()
LOOP = inner.InnerLoop(learning_rate=(0.01, 0.01), horizon=(20, 60))
RUN = Run(jnp.zeros(()), jnp.zeros((), int))
"""Which the rule does not read."""
WEIGHTS = jax.tree.map(jnp.asarray, THETA.weights)
LOCKSTEP = inner.InnerLoop(
    learning_rate=(0.2, 0.2), horizon=(8, 8), staggered=False, loss_ceiling=100.0
)


def flat(tree):
    return np.concatenate([np.ravel(x) for x in tree])


def test_the_unrolled_gradient_agrees_with_finite_differences():
    """In float64, along random directions, on one trajectory whose clip is out of reach."""
    with jax.enable_x64(True):
        theta = Weights(*(jnp.asarray(w, jnp.float64) for w in THETA.weights))
        estimator = Unrolled(1, 5, 1e9)
        state = estimator.begin(LOOP, FAMILY, theta, jax.random.key(0))
        state = jax.tree.map(
            lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state
        )

        @jax.jit
        def estimate(theta):
            out = estimator.estimate(LOOP, FAMILY, theta, state, jax.random.key(1))
            return out.gradient, out.loss

        gradient = estimate(theta)[0]
        rng = np.random.default_rng(0)
        for _ in range(3):
            direction = Weights(*(jnp.asarray(rng.standard_normal(w.shape)) for w in theta))
            step = 1e-6
            moved = [
                estimate(jax.tree.map(lambda t, d, s=s: t + s * d, theta, direction))[1]
                for s in (step, -step)
            ]
            numeric = (moved[0] - moved[1]) / (2 * step)
            analytic = sum(jnp.vdot(g, d) for g, d in zip(gradient, direction, strict=True))
            np.testing.assert_allclose(analytic, numeric, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 4, 7), (5, 5)])
def test_the_backward_pass_of_newton_schulz_is_that_of_the_rule(shape):
    """In float64, against autodiff of `rule.orthogonalize`, which knows no symmetry."""
    with jax.enable_x64(True):
        d, dy = (jax.random.normal(jax.random.key(i), shape, jnp.float64) for i in range(2))
        ours, theirs = (
            jax.vjp(lambda d, f=f: f(jnp, LOOP.spec, d), d)
            for f in (orthogonalize, rule.orthogonalize)
        )
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-12)
        np.testing.assert_allclose(ours[1](dy)[0], theirs[1](dy)[0], atol=1e-11)


def test_each_trajectory_is_clipped_before_the_mean():
    """Each of two is also looked at alone: one whose loss is at the ceiling has no gradient."""
    key = jax.random.key(0)
    state = Unrolled(2, 5).begin(LOOP, FAMILY, WEIGHTS, key)
    state = state._replace(step=jnp.zeros(2, jnp.int32))

    @jax.jit
    def gradient(state, clip):
        return jnp.concatenate(
            [
                g.ravel()
                for g in Unrolled(2, 5, clip).estimate(LOOP, FAMILY, WEIGHTS, state, key).gradient
            ]
        )

    both = gradient(state, 1e9)
    first, second = (
        2 * gradient(state._replace(task=state.task.at[silent].set(1e9)), 1e9) for silent in (1, 0)
    )
    np.testing.assert_allclose(both, (first + second) / 2, atol=1e-6)
    norms = [float(jnp.linalg.norm(g)) for g in (first, second)]
    clip = min(norms) / 10
    expected = clip * (first / norms[0] + second / norms[1]) / 2
    np.testing.assert_allclose(gradient(state, clip), expected, atol=1e-4 * clip)


def test_a_trajectory_whose_gradient_is_not_finite_is_left_out_and_counted():
    """sqrt at 0 has a finite loss and an infinite derivative."""

    class Cusp(Quadratic):
        def loss(self, params, state, task, key):
            loss, state = super().loss(params, state, task, key)
            cusp = jnp.sqrt(jnp.where(task[0, 0] > 0, 0.0, 1.0) * params["w"][0, 0] ** 2)
            return loss + cusp, state

    jax.tree_util.register_dataclass(Cusp, ["targets"], [])
    estimator = Unrolled(16, 5)
    state = estimator.begin(LOOP, Cusp(), WEIGHTS, jax.random.key(0))
    out = jax.jit(lambda: estimator.estimate(LOOP, Cusp(), WEIGHTS, state, jax.random.key(1)))()
    assert out.dropped == (state.task[:, 0, 0] > 0).sum() > 0
    assert np.isfinite(flat(out.gradient)).all()
    assert np.abs(flat(out.gradient)).max() > 0


def test_pes_is_its_definition():
    """Two truncations of one pair, the trajectory ending inside the second, step by step."""
    loop = inner.InnerLoop(learning_rate=(0.05, 0.05), horizon=(7, 7), staggered=False)
    pes, sigma = PES(1, 5, 0.05), 0.05
    state, acc = pes.begin(loop, Fixed(), WEIGHTS, jax.random.key(0)), 0.0
    nets = [None, None]
    steps = 0
    estimate = jax.jit(lambda state, key: pes.estimate(loop, Fixed(), WEIGHTS, state, key))
    step = jax.jit(
        lambda theta, net, key: inner.unroll(
            loop, Fixed(), theta, net, net, jax.random.split(key, 1)
        )
    )
    for t in range(2):
        out = estimate(state, jax.random.key(t))
        # In both truncations the sum begins with the perturbation: the run begins, or was reset.
        eps = jax.tree.map(lambda x: x[0], out.state.accumulated)
        differences, ended = [], []
        for s in range(5):
            losses = []
            for sign in (0, 1):
                if nets[sign] is None or steps == 7:
                    nets[sign] = inner.start(loop, Fixed(), jax.random.key(0))
                theta = jax.tree.map(jnp.add if sign == 0 else jnp.subtract, WEIGHTS, eps)
                one, nets[sign] = step(theta, nets[sign], jax.random.key(s))
                losses.append(float(one.loss[0]))
            ended.append(t == 1 and 5 + s >= 7)
            steps = steps + 1 if steps < 7 else 1
            differences.append(losses[0] - losses[1])
        before = sum(d for d, e in zip(differences, ended, strict=True) if not e) / 5
        after = sum(d for d, e in zip(differences, ended, strict=True) if e) / 5
        acc = acc + flat(eps)
        expected = (before * acc + after * flat(eps)) / (2 * sigma**2)
        np.testing.assert_allclose(
            flat(out.gradient), expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max()
        )
        state = out.state


def estimates(estimator, truncations):
    """Mean over truncations of the gradient of each seed, in one go: (seeds, 347)."""

    def one(key):
        begin_key, *keys = jax.random.split(key, 1 + truncations)
        state, total = estimator.begin(LOCKSTEP, Fixed(), WEIGHTS, begin_key), 0.0
        for key in keys:
            out = estimator.estimate(LOCKSTEP, Fixed(), WEIGHTS, state, key)
            state = out.state
            total += jnp.concatenate([g.ravel() for g in out.gradient])
        return total / truncations

    return jax.lax.map(jax.jit(one), jax.random.split(jax.random.key(0), 32))


def test_pes_is_unbiased_where_truncated_es_is_not():
    """The true gradient of the loss over the whole horizon is that of an unroll over all of it."""
    whole = Unrolled(1, 8, 1e9)
    state = whole.begin(LOCKSTEP, Fixed(), WEIGHTS, jax.random.key(0))
    truth = flat(whole.estimate(LOCKSTEP, Fixed(), WEIGHTS, state, jax.random.key(1)).gradient)
    found = {}
    for kind in (PES, ES):
        along = np.asarray(estimates(kind(256, 2, 1e-3), 4)) @ truth / (truth @ truth)
        found[kind] = along.mean(), along.std(ddof=1) / np.sqrt(len(along))
    mean, error = found[PES]
    assert error < 0.05
    assert abs(mean - 1) < 3 * error
    mean, error = found[ES]
    assert mean < 1 - 10 * error, "the problem is too easy to tell the two apart"


def test_pes_agrees_with_evosax_in_lock_step():
    """The same perturbations and losses through evosax's estimator, by its gradient descent."""
    pairs, sigma, truncations = 4, 0.01, 4
    pes = PES(pairs, 2, sigma)
    state = pes.begin(LOCKSTEP, Fixed(), WEIGHTS, jax.random.key(0))
    theirs = PersistentES(2 * pairs, flat(WEIGHTS), optax.sgd(1.0), optax.constant_schedule(sigma))
    their_params = theirs.default_params.replace(T=8, K=2)
    their_state = theirs.init(jax.random.key(0), jnp.asarray(flat(WEIGHTS)), their_params)
    previous = np.zeros((pairs, flat(WEIGHTS).size))
    estimate = jax.jit(lambda state, key: pes.estimate(LOCKSTEP, Fixed(), WEIGHTS, state, key))
    for t in range(truncations):
        out = estimate(state, jax.random.key(t))
        accumulated = np.stack(
            [flat(jax.tree.map(lambda x, i=i: x[i], out.state.accumulated)) for i in range(pairs)]
        )
        eps = accumulated - previous
        fitness = _losses(state, eps, jax.random.key(t))
        both = np.concatenate([eps, -eps])
        their_state = their_state.replace(
            mean=jnp.zeros(eps.shape[1]), pert_accum=their_state.pert_accum + both
        )
        after, _ = theirs.tell(
            jax.random.key(0), jnp.asarray(both), fitness, their_state, their_params
        )
        np.testing.assert_allclose(
            flat(out.gradient), -after.mean, rtol=1e-3, atol=1e-3 * np.abs(after.mean).max()
        )
        state, their_state, previous = out.state, after, accumulated


def _losses(state, eps, key):
    """Mean loss of each network over the truncation: the positive ones, then the negative ones."""
    out = []
    unroll = jax.jit(
        lambda theta, net: inner.unroll(
            LOCKSTEP, Fixed(), theta, net, net, jax.random.split(key, 2)
        )[0]
    )
    for sign, networks in ((1, state.positive), (-1, state.negative)):
        for i in range(len(eps)):
            theta, offset = [], 0
            for w in WEIGHTS:
                theta.append(w + sign * eps[i][offset : offset + w.size].reshape(w.shape))
                offset += w.size
            one = jax.tree.map(lambda x, i=i: x[i], networks)
            out.append(float(unroll(Weights(*map(jnp.float32, theta)), one).loss.mean()))
    return jnp.array(out)


@pytest.mark.parametrize("estimator", [Unrolled(2, 30), PES(2, 30), ES(2, 30)])
def test_an_unroll_longer_than_a_horizon_is_refused(estimator):
    with pytest.raises(
        InputError, match="the shortest horizon is 20 inner steps and an unroll has 30"
    ):
        estimator.begin(LOOP, FAMILY, WEIGHTS, jax.random.key(0))


def test_the_distance_to_muon_is_that_to_the_polar_factor_of_its_nesterov_momentum():
    """0 for Muon's own step, by singular vectors; 2 for its opposite; about 1 for a random one."""
    params = inner.start(LOOP, FAMILY, jax.random.key(0)).params
    statistics = inner.start(LOOP, FAMILY, jax.random.key(0)).statistics
    rng, m = np.random.default_rng(0), 0.0
    for _ in range(3):
        grads = {
            name: rng.standard_normal(p.shape).astype(np.float32) for name, p in params.items()
        }
        _, statistics = LOOP.optimizer.update(WEIGHTS, params, statistics, grads, RUN)
        m = 0.9 * m + 0.1 * grads["w"]
    u, _, v = np.linalg.svd(0.9 * m + 0.1 * grads["w"], full_matrices=False)
    steps = [u @ v, -u @ v, rng.standard_normal(m.shape)]
    distances = [
        float(LOOP.optimizer.distance_to_muon(params, {"w": jnp.asarray(x)}, statistics, grads))
        for x in steps
    ]
    np.testing.assert_allclose(distances[:2], [0, 2], atol=0.05)
    assert 0.5 < distances[2] < 1.5


def test_imitation_alone_brings_a_random_theta_towards_muon():
    estimator = Unrolled(4, 5, 1e9, imitation=(1e6, 1e6))
    theta = jax.tree.map(jnp.asarray, Theta.random(0, LOOP.spec).weights)
    optimizer = optax.adam(0.02)
    state, opt = estimator.begin(LOOP, FAMILY, theta, jax.random.key(0)), optimizer.init(theta)
    unroll = jax.jit(
        jax.vmap(
            lambda theta, net, keys: inner.unroll(LOOP, FAMILY, theta, net, net, keys, True)[0],
            (None, 0, 0),
        )
    )

    def distance(theta, state):
        return float(
            unroll(
                theta, state, jax.random.split(jax.random.key(9), (4, 5))
            ).distance_to_muon.mean()
        )

    @jax.jit
    def outer_step(theta, state, opt, key):
        out = estimator.estimate(LOOP, FAMILY, theta, state, key, 0.5)
        updates, opt = optimizer.update(out.gradient, opt)
        return optax.apply_updates(theta, updates), out.state, opt

    before = distance(theta, state)
    for key in jax.random.split(jax.random.key(1), 60):
        theta, state, opt = outer_step(theta, state, opt, key)
    assert distance(theta, state) < before / 2


def test_the_weight_of_imitation_goes_from_the_first_to_the_last():
    state = Unrolled(2, 5).begin(LOOP, FAMILY, WEIGHTS, jax.random.key(0))

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(imitation, progress):
        estimator = Unrolled(2, 5, 1e9, imitation=imitation)
        return jnp.concatenate(
            [
                g.ravel()
                for g in estimator.estimate(
                    LOOP, FAMILY, WEIGHTS, state, jax.random.key(1), progress
                ).gradient
            ]
        )

    plain, full = gradient((0.0, 0.0), 0.0), gradient((2.0, 1.0), 0.0)
    np.testing.assert_allclose(
        gradient((2.0, 1.0), 1.0), (plain + full) / 2, rtol=1e-3, atol=1e-5 * np.abs(full).max()
    )
    assert np.abs(full - plain).max() > 1e-3 * np.abs(plain).max()


@pytest.mark.parametrize("family", [BatchNorm(), Bandit()])
def test_model_state_is_carried_through_an_unroll_and_reset_with_the_trajectory(family):
    """Against steps by hand: the unroll ends one trajectory after three of its five steps."""
    old, fresh = (inner.start(LOOP, family, jax.random.key(seed)) for seed in (0, 7))
    keys = jax.random.split(jax.random.key(1), 5)
    steps, after = inner.unroll(
        LOOP, family, WEIGHTS, old._replace(step=old.horizon - 3), fresh, keys
    )
    for trajectory, these, losses in (
        (old, keys[:3], steps.loss[:3]),
        (fresh, keys[3:], steps.loss[3:]),
    ):
        params, state, statistics = trajectory.params, trajectory.model_state, trajectory.statistics
        for key, found in zip(these, losses, strict=True):
            batch_key = jax.random.split(key)[0]
            value_and_grad = jax.value_and_grad(family.loss, has_aux=True)
            (loss, state), grads = value_and_grad(params, state, trajectory.task, batch_key)
            np.testing.assert_allclose(found, inner.clipped(LOOP, loss), rtol=1e-4, atol=1e-6)
            moves, statistics = LOOP.optimizer.update(WEIGHTS, params, statistics, grads, RUN)
            rate = trajectory.learning_rate
            params = jax.tree.map(lambda p, move, rate=rate: p - rate * move, params, moves)
    for a, b in zip(jax.tree.leaves(after.model_state), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)
    assert jax.tree.leaves(state)


@pytest.mark.parametrize(
    ("estimator", "family", "held_out"),
    [(Unrolled(2, 5), BatchNorm(), True), (PES(2, 5), Bandit(), False)],
)
def test_the_meta_gradient_exists_for_families_with_model_state(estimator, family, held_out):
    """By an evaluation that reads the state, and from losses of batches that the policy draws."""
    loop = dataclasses.replace(LOOP, held_out=held_out)
    state = estimator.begin(loop, family, WEIGHTS, jax.random.key(0))
    out = jax.jit(
        lambda state: estimator.estimate(loop, family, WEIGHTS, state, jax.random.key(1))
    )(state)
    assert np.isfinite(flat(out.gradient)).all()
    assert np.abs(flat(out.gradient)).max() > 0
