"""Protects what theta is learned on: sets there without a network that are what they say, and augmentation as it should be."""

import jax
import numpy as np
import pytest

from celo2.data.offline import offline_sets
from celo2.tasks.base import Split
from celo2.tasks.mlp import ImageMLP
from celo2.tasks.reparametrize import Reparametrize

COUNT = 600


@pytest.fixture(scope="module")
def sets():
    return offline_sets(seed=0, count=COUNT)


def test_four_sets_of_ten_classes_each(sets):
    assert [s.name for s in sets] == ["digits", "letters", "photos", "edges"]
    for s in sets:
        assert s.images.shape == (1797 if s.name == "digits" else COUNT, 64)
        assert s.images.dtype == np.float32
        assert 0 <= s.images.min() < s.images.max() <= 1
        assert set(s.labels) == set(range(10))


def test_the_seed_decides_the_sets(sets):
    again, other = offline_sets(seed=0, count=COUNT), offline_sets(seed=1, count=COUNT)
    for a, b in zip(sets, again, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
    assert not np.array_equal(sets[1].images, other[1].images)


def test_labels_mean_something(sets):
    """The mean image of each class, learned on one half, classifies the other half of each set better than chance."""
    for s in sets:
        images = s.images - s.images.mean(1, keepdims=True)
        half = len(images) // 2
        means = np.stack([images[:half][s.labels[:half] == c].mean(0) for c in range(10)])
        distance = np.square(images[half:, None] - means).sum(-1)
        assert (distance.argmin(1) == s.labels[half:]).mean() > 0.13, s.name


def test_an_edge_has_the_orientation_of_its_label():
    """Hand-made: brightness that grows to the right has its gradient at angle 0, downwards at a right angle."""
    edges = offline_sets(seed=0, count=2000)[3]
    images = edges.images.reshape(-1, 8, 8)
    dy, dx = np.gradient(images, axis=(1, 2))
    horizontal, vertical = (np.square(d).sum((1, 2)) for d in (dx, dy))
    assert (horizontal > vertical)[edges.labels == 0].mean() > 0.95
    assert (vertical > horizontal)[edges.labels == 5].mean() > 0.95


@pytest.mark.parametrize("granularity", ["network", "tensor", "entry"])
@pytest.mark.parametrize("alpha", [1e-3, 0.1, 10.0, 1e3])
def test_reparametrisation_keeps_the_function(sets, alpha, granularity):
    plain = ImageMLP.of(sets)
    family = Reparametrize(plain, alpha, alpha, granularity)
    key, batch_key = jax.random.split(jax.random.key(0))
    task = family.sample(key)
    batch = family.batch(batch_key, task)
    params = family.init(key, task)
    expected = plain.loss(plain.init(key, task[0]), task[0], batch)
    np.testing.assert_allclose(family.loss(params, task, batch), expected, rtol=1e-4)
    np.testing.assert_allclose(params["w0"] * alpha, plain.init(key, task[0])["w0"], rtol=1e-4)


def test_alphas_are_drawn_for_the_network_the_tensor_or_the_entry(sets):
    drawn = {}
    for granularity in ("network", "tensor", "entry"):
        family = Reparametrize(ImageMLP.of(sets), 1e-3, 1e3, granularity)
        alphas = family.sample(jax.random.key(0))[1]
        drawn[granularity] = len({float(x) for a in alphas.values() for x in np.ravel(a)})
    assert drawn["network"] == 1
    assert drawn["tensor"] == 4
    assert drawn["entry"] > 2300


def test_the_network_has_the_published_size(sets):
    family = ImageMLP.of(sets)
    params = family.init(jax.random.key(0), family.sample(jax.random.key(1)))
    assert sum(p.size for p in params.values()) == 2410


def test_batches_come_from_the_task_without_its_padding(sets):
    family = ImageMLP.of(sets)
    images, labels = family.batch(jax.random.key(0), (1, Split.draw(jax.random.key(1), None, len(sets[1].labels))))
    rows = {row.tobytes() for row in sets[1].images}
    assert all(np.asarray(row).tobytes() in rows for row in images)
    assert images.shape == (64, 64)
    assert labels.shape == (64,)


def test_a_split_trains_on_its_window_and_holds_out_the_rest():
    split = Split.draw(jax.random.key(4), 100, 400)
    train, held_out = (set(np.asarray(f(jax.random.key(0), 5000)).tolist()) for f in (split.train, split.held_out))
    assert len(train) == 100
    assert train | held_out == set(range(400))
    assert not train & held_out
    ring = sorted(train)
    assert sum(b - a != 1 for a, b in zip(ring, ring[1:], strict=False)) <= 1, "a window of a ring"
    everything = Split.draw(jax.random.key(4), None, 50)
    assert len(set(np.asarray(everything.held_out(jax.random.key(0), 2000)).tolist())) == 50
