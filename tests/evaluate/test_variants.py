"""Protects variants of problems: they change one thing, and settings are carried to them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo2 import InputError
from celo2.cli.bench import Bench
from celo2.evaluate.baselines import ADAMW, OPTIMIZERS
from celo2.evaluate.records import Records
from celo2.evaluate.runs import RecordedLoss
from celo2.evaluate.scores import run_of
from celo2.evaluate.suites import BENCHMARK, Problem, problem
from celo2.evaluate.variants import FACTORS, recorded_variants, run_around, varied
from celo2.tasks.autoencoder import Autoencoder
from celo2.tasks.conv import ConvNet
from celo2.tasks.mlp import ImageMLP
from celo2.tasks.variants import (
    RoundedToBfloat16,
    at_scale,
    with_batch_size,
    with_width,
)
from tests.families import BatchNorm, Quadratic

TINY = Problem("tiny", Quadratic, 30)
TUNED = {"learning_rate": 0.01, "b1": 0.9, "b2": 0.999}


def small_images():
    from celo2.data.images import LabeledSet
    from celo2.tasks.image_sets import ImageSets

    pixels = np.random.default_rng(0).integers(0, 256, (40, 64), np.uint8)
    labels = (np.arange(40) % 10).astype(np.int32)
    return ImageSets.of([LabeledSet("noise", pixels, labels, 10)], batch_size=8)


def test_a_batch_is_so_many_times_as_large():
    family = ImageMLP(small_images())
    for factor, size in ((0.25, 2), (4.0, 32)):
        changed = with_batch_size(family, factor)
        task = changed.sample(jax.random.key(0))
        images, _ = changed.data.batch(jax.random.key(1), task)
        assert len(images) == size
    with pytest.raises(InputError, match="Quadratic states no batch size; take another problem"):
        with_batch_size(Quadratic(), 2.0)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (ImageMLP(small_images(), hidden=(16, 8)), [(32, 10), (64, 32), (64, 64)]),
        (ConvNet(small_images(), widths=(4, 8)), [(9, 16), (32, 10), (144, 32)]),
        (Autoencoder(small_images(), widths=(8, 4)), [(16, 32), (32, 16), (32, 64), (64, 32)]),
    ],
)
def test_a_network_is_so_many_times_as_wide(family, expected):
    family = with_width(family, 4)
    params, _ = family.init(jax.random.key(0), family.sample(jax.random.key(1)))
    assert sorted(p.shape for p in params.values() if p.ndim > 1) == expected


def test_a_network_without_a_width_is_refused():
    with pytest.raises(InputError, match="Quadratic states no width; take another problem"):
        with_width(Quadratic(), 4)


def test_weights_at_another_scale_compute_the_same_and_their_gradients_are_scaled():
    family, key = Quadratic(), jax.random.key(0)
    changed = at_scale(family, 0.1)
    inner = changed.sample(key)[0]
    params, state = family.init(key, inner)
    task = inner, dict.fromkeys(params, 10.0)
    stored, _ = changed.init(key, task)
    np.testing.assert_allclose(stored["w"], params["w"] / 10, rtol=1e-6)

    def loss(f, p, t):
        return f.loss(p, state, t, jax.random.key(2))[0]

    np.testing.assert_allclose(loss(changed, stored, task), loss(family, params, inner), rtol=1e-5)
    mine = jax.grad(lambda p: loss(changed, p, task))(stored)
    theirs = jax.grad(lambda p: loss(family, p, inner))(params)
    np.testing.assert_allclose(mine["w"], 10 * theirs["w"], rtol=1e-4)
    drawn = changed.sample(key)[1]
    np.testing.assert_allclose(drawn["w"], 10.0, rtol=1e-5)


def test_a_network_in_bfloat16_keeps_float32_weights_and_state():
    family = RoundedToBfloat16(BatchNorm())
    task = family.sample(jax.random.key(0))
    params, state = family.init(jax.random.key(1), task)
    (loss, new), grads = jax.value_and_grad(family.loss, has_aux=True)(
        params, state, task, jax.random.key(2)
    )
    assert {x.dtype for x in jax.tree.leaves((params, new, grads, loss))} == {jnp.dtype("float32")}
    exact = family.family.loss(params, state, task, jax.random.key(2))[0]
    assert 0 < abs(float(loss) - float(exact)) < 0.02 * float(exact)
    for g in grads.values():
        np.testing.assert_array_equal(g, g.astype(jnp.bfloat16).astype(jnp.float32))
    found = family.evaluate(params, state, task, jax.random.key(3))
    assert found == family.family.evaluate(params, state, task, jax.random.key(3))


def test_a_variant_is_run_around_the_tuned_settings_of_the_original(tmp_path):
    records = Records(tmp_path / "runs.jsonl")

    def train(problem, baseline, settings, seed):
        return {"loss": 1 + abs(math.log2(settings["learning_rate"] / 0.02))}

    variant = varied(TINY, "weights-tenth")
    assert variant.steps == 30
    assert variant.name != TINY.name
    loss = RecordedLoss(records, variant, ADAMW, train)
    with pytest.raises(InputError, match="has no tuned adamw on tiny; tune it first"):
        run_around(loss, TINY, (1,))
    for seed in (0, 1):
        records.add(run_of("tiny", 30, ADAMW, TUNED, seed), {"loss": 1.0})
    found = run_around(loss, TINY, (1,))
    assert found == {0.25: 4.0, 0.5: 3.0, 1.0: 2.0, 2.0: 1.0, 4.0: 2.0}
    assert tuple(found) == FACTORS
    assert recorded_variants(records, "tiny", 30, ADAMW, (1,)) == {"weights-tenth": found}


def test_an_optimizer_with_nothing_to_tune_runs_a_variant_once(tmp_path):
    records = Records(tmp_path / "runs.jsonl")
    ours = OPTIMIZERS["celo2-total-steps"].make()
    records.add(run_of("tiny", 30, ours, ours.grid.others[0], 1), {"loss": 1.0})

    def train(problem, baseline, settings, seed):
        return {"loss": 2.0}

    loss = RecordedLoss(records, varied(TINY, "bfloat16"), ours, train)
    assert run_around(loss, TINY, (1,)) == {1.0: 2.0}


def test_an_unknown_variant_is_refused():
    with pytest.raises(InputError, match="unknown variant 'huge': take some of batch-quarter, ba"):
        varied(TINY, "huge")


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARK)
def test_every_problem_of_the_benchmark_has_the_variants_of_the_command(name):
    """Shapes alone: no batch is computed."""
    original = problem(name)
    for variant in Bench().variants:
        family = varied(original, variant).family

        def loss(key, family=family):
            task = family.sample(key)
            params, state = family.init(key, task)
            return family.loss(params, state, task, key)[0]

        assert jax.eval_shape(loss, jax.random.key(0)).shape == ()
