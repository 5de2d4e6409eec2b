"""Protects the fine-tuning problem: BatchNorm's statistics, the pretrained start, the classes."""

import jax
import numpy as np
import pytest

from celo2.data.images import LabeledSet
from celo2.tasks.batch_norm import DECAY, BatchNormNet
from celo2.tasks.fine_tuning import FineTuning, classes_of, pretrained
from celo2.tasks.image_sets import ImageSets
from tests.tasks.learning import adamw

pytestmark = pytest.mark.slow


def brightness(seed, count=120):
    """Gray images of 8x8 pixels; the class is how bright they are."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    images = (40 + 40 * labels)[:, None] + rng.integers(-30, 30, size=(count, 64))
    return LabeledSet("brightness", images.astype(np.uint8), labels, 4)


def network(classes, each=None):
    train, held_out = (classes_of(brightness(seed), classes, each) for seed in (0, 1))
    return BatchNormNet(ImageSets.of([train], [held_out], 16), channels=1, widths=(8, 8))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CELO2_DATA", str(tmp_path))
    return tmp_path / "pretrained"


def test_classes_are_selected_and_counted_from_zero():
    part = classes_of(brightness(0), range(2, 4), each=5)
    assert part.classes == 2
    np.testing.assert_array_equal(np.bincount(part.labels), [5, 5])
    assert part.images[part.labels == 0].mean() == pytest.approx(120, abs=5)
    assert part.images[part.labels == 1].mean() == pytest.approx(160, abs=5)


def test_running_statistics_are_averages_of_the_batches_and_are_evaluated_by():
    family = network(range(4))
    key = jax.random.key(0)
    task = family.sample(key)
    params, state = jax.jit(family.init)(key, task)
    images = family.data.batch(key, task).images
    logits = jax.jit(family.logits)
    _, seen = logits(params, None, images)
    _, new = jax.jit(family.loss)(params, state, task, key)
    for name, first in state.items():
        np.testing.assert_allclose(
            new[name], DECAY * first + (1 - DECAY) * seen[name], rtol=1e-4, atol=1e-6
        )
    by_batch, _ = logits(params, None, images)
    by_the_same, used = logits(params, seen, images)
    np.testing.assert_allclose(by_batch, by_the_same, atol=1e-5)
    assert all(np.array_equal(used[name], seen[name]) for name in seen)


def test_a_network_with_batch_norm_learns():
    before, after = adamw(network(range(4)), steps=60)
    assert after["loss"] < 0.7 * before["loss"]


def test_fine_tuning_starts_from_the_pretrained_network_but_for_its_head():
    source = network(range(2))
    params, state = jax.jit(source.init)(jax.random.key(0), ())
    state = jax.tree.map(lambda x: x + 1, state)
    family = FineTuning(network(range(2, 4), each=8), params, state)
    first, at = jax.jit(family.init)(jax.random.key(1), ())
    jax.tree.map(np.testing.assert_array_equal, at, state)
    for name, value in first.items():
        is_drawn_anew = name == "head.w"  # the head's bias is zero in both
        assert np.array_equal(value, params[name]) != is_drawn_anew, name


def test_a_pretrained_network_is_trained_once_and_alike_each_time(own_cache):
    first = pretrained(network(range(2)), steps=10)
    (path,) = own_cache.iterdir()
    saved = path.read_bytes()
    assert any(first[1]["norm0"][0] != 0), "running statistics are kept too"
    again = pretrained(network(range(2)), steps=10)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert path.read_bytes() == saved
    path.unlink()
    anew = pretrained(network(range(2)), steps=10)
    jax.tree.map(np.testing.assert_array_equal, first, anew)
    pretrained(network(range(1, 3)), steps=10)
    assert len(list(own_cache.iterdir())) == 2, "other data have a network of their own"
