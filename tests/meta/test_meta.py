"""Protects meta-training: the inner loop is the rule, theta descends, a cut run ends as a whole."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo2 import InputError, Spec, load_theta, rule
from celo2.meta import inner, outer
from celo2.meta.checkpoint import theta_of
from celo2.meta.config import MetaConfig
from celo2.meta.estimators import Estimate, Unrolled
from celo2.meta.sensitivity import sensitivity
from celo2.meta.starts import STARTS, handcrafted
from celo2.meta.symmetry import project
from celo2.rule import Weights
from celo2.theta import Theta
from tests.cases import REFERENCE, THETA
from tests.families import Quadratic
from tests.oracle import oracle_steps

FAMILY = Quadratic()
LOOP = inner.InnerLoop(learning_rate=(0.01, 0.01), horizon=(20, 60))
ESTIMATOR = Unrolled(trajectories=8, truncation_length=10)
CONFIG = MetaConfig(inner=LOOP, estimator=ESTIMATOR, outer_steps=30, warmup=5, learning_rate=1e-2)


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


def test_horizons_and_rates_come_from_their_ranges():
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


@dataclasses.dataclass(frozen=True)
class NotFinite(Unrolled):
    """An estimator whose gradient is not a number in every third outer step."""

    def estimate(self, loop, family, theta, state, key, progress=0.0):
        estimate = super().estimate(loop, family, theta, state, key, progress)
        bad = jnp.where(jax.random.uniform(key) < 1 / 3, jnp.nan, 1.0)
        return Estimate(jax.tree.map(lambda g: g * bad, estimate.gradient), *estimate[1:])


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(tmp_path):
    config = dataclasses.replace(CONFIG, estimator=NotFinite(8, 10))
    metrics = list(outer.run(config, [FAMILY], tmp_path))
    nans = [not np.isfinite(m.gradient_norm) for m in metrics]
    assert 2 < sum(nans) < 25
    assert [m.skipped for m in metrics] == list(np.cumsum(nans))
    assert all(np.isfinite(w).all() for w in theta_of(tmp_path)[0])


@pytest.mark.slow
def test_meta_training_lowers_the_meta_loss(tmp_path):
    loop = dataclasses.replace(LOOP, adamw_lr_multiplier=1.0)
    config = dataclasses.replace(
        CONFIG, inner=dataclasses.replace(loop, learning_rate=(0.05, 0.05)), outer_steps=150
    )
    losses = [m.meta_loss for m in outer.run(config, [FAMILY], tmp_path)]
    assert np.mean(losses[-60:]) < 0.9 * np.mean(losses[:30])


def test_a_run_that_was_cut_ends_bit_identical(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for _ in outer.run(CONFIG, [FAMILY], whole):
        pass
    for stop in (7, 13, None):
        run = outer.run(CONFIG, [FAMILY], cut)
        for _ in itertools.islice(run, stop):
            pass
        run.close()
    for a, b in zip(theta_of(whole)[0], theta_of(cut)[0], strict=True):
        np.testing.assert_array_equal(a, b)
    lines = [
        [json.loads(line) for line in (d / "metrics.jsonl").read_text().splitlines()]
        for d in (whole, cut)
    ]
    assert [x["meta_loss"] for x in lines[0]] == [x["meta_loss"] for x in lines[1]]


def flipped(theta, params, g):
    """The rule's step for W and g, and for -W and -g, after three gradients."""
    steps = []
    for sign in (1, -1):
        accumulators = rule.init(np, Spec(), params)
        for t in range(3):
            step, accumulators = rule.update(
                np, Spec(), theta, accumulators, sign * g[t], sign * params, None
            )
        steps.append(step)
    return steps


def test_an_odd_rule_turns_its_step_around_with_the_gradient():
    rng = np.random.default_rng(0)
    params, g = rng.standard_normal((3, 5)), rng.standard_normal((3, 3, 5))
    random = Weights(*(np.asarray(w, np.float64) for w in THETA.weights))
    ahead, back = flipped(random, params, g)
    assert np.abs(ahead + back).max() > 0.1
    odd = project(Spec(), random)
    ahead, back = flipped(odd, params, g)
    np.testing.assert_allclose(ahead, -back, atol=1e-12)
    for once, twice in zip(odd, project(Spec(), odd), strict=True):
        np.testing.assert_array_equal(once, twice)
    assert rule.channel_signs(Spec()).count(1.0) == 14  # V, s and the factored statistics


@pytest.mark.slow
def test_meta_training_among_the_odd_rules_stays_among_them(tmp_path):
    config = dataclasses.replace(CONFIG, odd=True, start="muon-1")
    for _ in outer.run(config, [FAMILY], tmp_path):
        pass
    found, start = theta_of(tmp_path)[0], STARTS["muon-1"](config.seed, Spec()).weights
    for w, p in zip(found, project(Spec(), found), strict=True):
        np.testing.assert_allclose(w, p, atol=1e-6)
    assert np.abs(found.w0 - start.w0).max() > 1e-3


@pytest.mark.parametrize("gradient", [0.3, 1.0])
def test_the_hand_written_start_is_muons_direction(gradient):
    """Without the small rest: normalized M_0.9 and so much of normalized G, by hand."""
    theta = handcrafted(0, Spec(), {"M": 1.0, "G": gradient}, rest=0.0).weights
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal((2, 4, 6))
    step, accumulators = rule.update(np, Spec(), theta, rule.init(np, Spec(), p), g, p, None)
    m = accumulators.momentum[0]
    expected = m / np.sqrt(np.mean(m**2)) + gradient * g / np.sqrt(np.mean(g**2))
    np.testing.assert_allclose(step, expected / np.sqrt(np.mean(expected**2)), rtol=1e-4)


KILLED = """
import sys
from pathlib import Path
from celo2.meta import outer
from tests.meta.test_meta import CONFIG, FAMILY
for _ in outer.run(CONFIG, [FAMILY], Path(sys.argv[1]), every_seconds=0.0):
    pass
"""


def test_a_theta_by_hand_listens_to_what_was_written_into_it():
    heard = sensitivity(handcrafted(0, Spec(), {"M": -2.0, "G s": 0.5}, rest=0.0))
    assert heard.pop("M 0.9") == pytest.approx(-1)
    assert heard.pop("G s") == pytest.approx(0.25)
    assert len(heard) == 14
    assert set(heard.values()) == {0.0}


def test_what_a_theta_listens_to_are_differences_of_its_direction():
    """Central ones, of the rule's own MLP, at channels drawn anew: G is the first, W the third."""
    theta = Theta.random(1)
    x = np.where(
        np.array(rule.channel_signs(Spec())) < 0,
        np.random.default_rng(1).standard_normal((1 << 18, 30)),
        1.0,
    )
    w = Weights(*(array.astype(np.float64) for array in theta.weights))

    def mean_direction(channel, step):
        hidden = (x + step * np.eye(30)[channel]) @ w.w0
        return rule.later_layers(np, w, hidden.T[:, None]).mean()

    differences = [
        mean_direction(channel, 0.05) - mean_direction(channel, -0.05) for channel in (0, 2)
    ]
    heard = sensitivity(theta)
    assert heard["W"] / heard["G"] == pytest.approx(differences[1] / differences[0], rel=0.05)


@pytest.mark.slow
def test_a_run_that_was_killed_ends_bit_identical(tmp_path):
    """SIGKILL at moments of no one's choosing, until a process gets to the end."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for _ in outer.run(CONFIG, [FAMILY], whole):
        pass
    root, env = (
        Path(__file__).parents[2],
        {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")},
    )
    kills = 0
    for patience in (0.05, 0.2, None):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(killed)], cwd=root, env=env)
        if patience is not None:
            before = len(_lines(killed))
            while len(_lines(killed)) < before + 3 and process.poll() is None:
                time.sleep(0.01)
            time.sleep(patience)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
    assert process.wait() == 0
    assert kills
    for a, b in zip(theta_of(whole)[0], theta_of(killed)[0], strict=True):
        np.testing.assert_array_equal(a, b)
    losses = [[json.loads(line)["meta_loss"] for line in _lines(d)] for d in (whole, killed)]
    assert losses[0] == losses[1]


def _lines(directory):
    path = directory / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_other_data_is_refused(tmp_path):
    next(outer.run(CONFIG, [FAMILY], tmp_path))
    with pytest.raises(InputError, match=r"another configuration \(data was \w+, now \w+\)"):
        next(outer.run(CONFIG, [Quadratic(jnp.zeros(()))], tmp_path))


def test_another_configuration_is_refused_with_the_difference_named(tmp_path):
    next(outer.run(CONFIG, [FAMILY], tmp_path))
    with pytest.raises(
        InputError, match=r"\(estimator.truncation_length was 10, now 5\); give another folder"
    ):
        next(outer.run(dataclasses.replace(CONFIG, estimator=Unrolled(8, 5)), [FAMILY], tmp_path))


def test_celo2_is_a_start_for_its_own_spec_alone():
    np.testing.assert_array_equal(
        STARTS["celo2"](3, Spec()).weights.w0, load_theta("celo2").weights.w0
    )
    with pytest.raises(
        InputError,
        match=r"the start celo2 has Spec\(newton_schulz=True, .*hidden=8.*take another start",
    ):
        STARTS["celo2"](0, Spec(hidden=4))


def test_a_run_from_before_a_setting_existed_goes_on(tmp_path):
    list(itertools.islice(outer.run(CONFIG, [FAMILY], tmp_path), 3))
    written = json.loads((tmp_path / "config.json").read_text())
    del written["estimator.imitation"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert next(outer.run(CONFIG, [FAMILY], tmp_path)).step == 3
    imitating = dataclasses.replace(
        CONFIG, estimator=dataclasses.replace(ESTIMATOR, imitation=(0.5, 0.5))
    )
    with pytest.raises(InputError, match=r"estimator.imitation was \[0.0, 0.0\], now \[0.5, 0.5\]"):
        next(outer.run(imitating, [FAMILY], tmp_path))
