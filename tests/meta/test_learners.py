"""Protects the meta-training of Celo and VeLO: it is theirs, in their phases."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo2 import InputError
from celo2.baselines import celo, load_celo, random_celo, random_velo, save_weights, velo
from celo2.meta import inner, outer
from celo2.meta.checkpoint import theta_of
from celo2.meta.config import MetaConfig
from celo2.meta.estimators import PES, Unrolled
from celo2.meta.learners import Baseline
from celo2.meta.starts import start
from tests.baselines.golden import Case
from tests.baselines.test_digits import STEPS, train
from tests.families import Quadratic
from tests.meta.settings import CONFIG

FAMILY = Quadratic()
WIDTH, MLPS = 4, 3


def loop_of(learner):
    return inner.InnerLoop(
        learner=learner,
        lstm_width=WIDTH,
        mlps=MLPS,
        learning_rate=(1.0, 1.0),
        horizon=(20, 60),
    )


def config_of(learner, **changes):
    loop = loop_of(learner)
    return dataclasses.replace(CONFIG, inner=loop, start="random", **changes)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "scale"), [(celo, 3.0), (velo, 1.0)])
def test_networks_are_trained_as_by_the_optimizer_that_users_get(make, scale):
    """Six inner steps, and the same by optax with the horizon as the number of steps."""
    learner = loop_of(make.__name__)
    theta = start("random", 0, learner)
    # Larger steps than those of the authors' start of Celo, so that differences show.
    theta = jax.tree.map(lambda x: scale * jnp.asarray(x), theta)
    one = inner.start(learner, FAMILY, jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 6)
    steps, after = inner.unroll(learner, FAMILY, theta, one, one, keys)

    optimizer = make(int(one.horizon), theta)
    params, state = one.params, optimizer.init(one.params)
    for key, expected in zip(keys, steps.loss, strict=True):
        batch_key = jax.random.split(key)[0]
        value_and_grad = jax.value_and_grad(FAMILY.loss, has_aux=True)
        (loss, _), grads = value_and_grad(params, (), one.task, batch_key)
        np.testing.assert_allclose(expected, inner.clipped(learner, loss), rtol=1e-5)
        updates, state = optimizer.update(grads, state, params, value=loss)
        params = optax.apply_updates(params, updates)
    for name, p in params.items():
        np.testing.assert_allclose(after.params[name], p, atol=1e-6)
    assert np.abs(params["w"] - one.params["w"]).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learner", "frozen"),
    [("celo-mlp", "scheduler"), ("celo", "mlp"), ("celo-adam", "mlp"), ("velo", None)],
)
@pytest.mark.parametrize("estimator", [Unrolled(8, 10), PES(8, 10)])
def test_a_phase_learns_its_part_and_leaves_the_other(tmp_path, learner, frozen, estimator):
    config = config_of(learner, estimator=estimator, outer_steps=8, weight_decay=0.0)
    for _ in outer.run(config, [FAMILY], tmp_path):
        pass
    before = start("random", config.seed, config.inner)
    after, _ = theta_of(tmp_path, before)
    for name in before._fields:
        old, new = (jax.tree.leaves(getattr(theta, name)) for theta in (before, after))
        same = [np.array_equal(x, y) for x, y in zip(old, new, strict=True)]
        assert all(same) if name == frozen else not any(same[:1]), name
        assert all(np.isfinite(x).all() for x in new)


@pytest.mark.slow
def test_the_meta_loss_of_celo_falls(tmp_path):
    config = config_of("celo-mlp", outer_steps=150)
    losses = [m.meta_loss for m in outer.run(config, [FAMILY], tmp_path)]
    assert np.mean(losses[-40:]) < 0.9 * np.mean(losses[:20])


@pytest.mark.parametrize(
    "weights", [random_celo(1, WIDTH), random_celo(1, WIDTH, mlp=False), random_velo(1, WIDTH, 3)]
)
def test_weights_come_back_from_their_file(tmp_path, weights):
    from celo2.baselines import load_velo

    path = tmp_path / "theta.safetensors"
    save_weights(path, weights, {"name": "small"})
    load = load_velo if hasattr(weights, "bank") else load_celo
    found = load(path)
    assert jax.tree.structure(found) == jax.tree.structure(weights)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(weights), strict=True):
        np.testing.assert_array_equal(a, b)


def test_random_weights_are_those_of_the_authors_start():
    """Truncated at two, 1/sqrt(fan_in), biases and first state zero."""
    theta = random_velo(0, 64, 200)
    w0 = theta.bank.w0 * np.sqrt(30)
    assert np.abs(w0).max() <= 2
    # The deviation of a normal distribution cut at two is 0.8796.
    np.testing.assert_allclose(w0.std(), 0.8796, atol=0.01)
    np.testing.assert_allclose((theta.recurrent.gates.w * np.sqrt(128)).std(), 0.8796, atol=0.01)
    zeros = (theta.bank.b0, theta.recurrent.gates.b, theta.recurrent.hidden)
    assert not any(array.any() for array in zeros)


def test_what_is_of_the_rule_alone_is_refused_for_others():
    loop = loop_of("celo")
    with pytest.raises(InputError, match=r"odd and imitation are for the rule, .* learns celo"):
        MetaConfig(inner=loop, odd=True)
    with pytest.raises(InputError, match="odd and imitation are for the rule"):
        MetaConfig(inner=loop, estimator=Unrolled(imitation=(1.0, 0.0)))


def test_a_learning_rate_is_refused_where_there_is_none():
    loop = dataclasses.replace(loop_of("celo"), learning_rate=(1e-3, 1e-3))
    with pytest.raises(InputError, match=r"celo has no learning rate, .*\(0.001, 0.001\); give"):
        MetaConfig(inner=loop)


def test_a_learner_is_static_under_jit():
    assert hash(Baseline("celo", 4, 1)) == hash(Baseline("celo", 4, 1))
    assert loop_of("velo").optimizer == Baseline("velo", WIDTH, MLPS)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "name"), [(celo, "celo-small"), (velo, "velo-small")])
def test_the_small_ones_of_the_package_train_a_network(make, name):
    """The digits of scikit-learn: from about ln 10 to less than a quarter of it."""
    case = Case("celo_digits", "celo_digits_10")
    params = jax.tree.map(jnp.asarray, case.tree("params0"))
    losses = train(make(STEPS, name), params)
    assert losses[0] > 2.0
    assert np.mean(losses[-10:]) < 0.25 * np.log(10)
