"""Protects what theta is learned on: image sets, splits, networks, augmentation, model state."""

import itertools

import jax
import numpy as np
import pytest

from celo2.data.images import LabeledSet
from celo2.data.synthetic.offline import offline_sets
from celo2.tasks.image_sets import ImageSets
from celo2.tasks.layers import patches
from celo2.tasks.mlp import ImageMLP
from celo2.tasks.registry import SMALL, small_family
from celo2.tasks.reparametrize import Reparametrize
from tests.families import Bandit, BatchNorm

pytestmark = pytest.mark.slow

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
    """The mean image of each class, of one half, classifies the other half better than chance."""
    for s in sets:
        images = s.images - s.images.mean(1, keepdims=True)
        half = len(images) // 2
        means = np.stack([images[:half][s.labels[:half] == c].mean(0) for c in range(10)])
        distance = np.square(images[half:, None] - means).sum(-1)
        assert (distance.argmin(1) == s.labels[half:]).mean() > 0.13, s.name


def test_an_edge_has_the_orientation_of_its_label():
    """Brightness that grows to the right has its gradient at angle 0, downwards at 90 degrees."""
    edges = offline_sets(seed=0, count=2000)[3]
    images = edges.images.reshape(-1, 8, 8)
    dy, dx = np.gradient(images, axis=(1, 2))
    horizontal, vertical = (np.square(d).sum((1, 2)) for d in (dx, dy))
    assert (horizontal > vertical)[edges.labels == 0].mean() > 0.95
    assert (vertical > horizontal)[edges.labels == 5].mean() > 0.95


@pytest.mark.parametrize("granularity", ["network", "tensor", "entry"])
@pytest.mark.parametrize("alpha", [1e-3, 0.1, 10.0, 1e3])
def test_reparametrization_keeps_the_function(sets, alpha, granularity):
    plain = ImageMLP(ImageSets.of(sets))
    family = Reparametrize(plain, alpha, alpha, granularity)
    key, batch_key = jax.random.split(jax.random.key(0))
    task = family.sample(key)
    params, state = family.init(key, task)
    unscaled, _ = plain.init(key, task[0])
    expected, _ = plain.loss(unscaled, state, task[0], batch_key)
    loss, _ = family.loss(params, state, task, batch_key)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(params["w0"] * alpha, unscaled["w0"], rtol=1e-4)


def test_alphas_are_drawn_for_the_network_the_tensor_or_the_entry(sets):
    drawn = {}
    for granularity in ("network", "tensor", "entry"):
        family = Reparametrize(ImageMLP(ImageSets.of(sets)), 1e-3, 1e3, granularity)
        alphas = family.sample(jax.random.key(0))[1]
        drawn[granularity] = len({float(x) for a in alphas.values() for x in np.ravel(a)})
    assert drawn["network"] == 1
    assert drawn["tensor"] == 4
    assert drawn["entry"] > 2300


def test_the_network_has_the_published_size(sets):
    family = ImageMLP(ImageSets.of(sets))
    params, _ = family.init(jax.random.key(0), family.sample(jax.random.key(1)))
    assert sum(p.size for p in params.values()) == 2410


def test_batches_come_from_the_task_without_its_padding(sets):
    data = ImageSets.of(sets)
    task = data.sample(jax.random.key(0))._replace(index=1, train_size=COUNT)
    images, labels = data.batch(jax.random.key(0), task)
    rows = {row.tobytes() for row in sets[1].images}
    assert all(np.asarray(row).tobytes() in rows for row in images)
    assert images.shape == (64, 64)
    assert labels.shape == (64,)


@pytest.fixture
def counted():
    """Images that say their own number in pixel 0, and nothing in the other 63."""
    images = np.zeros((400, 64), np.float32)
    images[:, 0] = np.arange(400) / 400
    return [LabeledSet("counted", images, np.arange(400) % 10, 10)]


def numbers(batch):
    return set(np.round(np.asarray(batch.images[:, 0]) * 400).astype(int).tolist())


def test_a_split_trains_on_its_window_and_holds_out_the_rest(counted):
    data = ImageSets.of(counted, batch_size=5000, train_size=100)
    task = data.sample(jax.random.key(4))
    train, held_out = (
        numbers(f(jax.random.key(0), task)) for f in (data.batch, data.held_out_batch)
    )
    assert len(train) == 100
    assert train | held_out == set(range(400))
    assert not train & held_out
    ring = sorted(train)
    assert sum(b - a != 1 for a, b in itertools.pairwise(ring)) <= 1, "a window of a ring"
    everything = ImageSets.of(counted, batch_size=5000)
    assert (
        len(
            numbers(
                everything.held_out_batch(jax.random.key(0), everything.sample(jax.random.key(4)))
            )
        )
        == 400
    )


def test_rare_inputs_are_shown_as_often_as_the_task_says(counted):
    counted[0].images[:] = 1
    data = ImageSets.of(counted, batch_size=20_000, rare_inputs=1.0)
    task = data.sample(jax.random.key(1))
    rare = task.shown < 1
    assert 0 < rare.sum() < 64
    assert ((task.shown >= 0.99e-3) & (task.shown <= 0.301))[rare].all()
    seen = data.batch(jax.random.key(0), task).images.mean(0)
    np.testing.assert_allclose(seen, task.shown, atol=0.02)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("family", SMALL)
def test_every_family_learns_by_plain_gradient_descent(sets, family, channels):
    """All promise a finite loss with a gradient that lowers it, on gray and on color images."""
    colored = [s._replace(images=np.repeat(s.images, channels, 1)) for s in sets]
    made = small_family(family, ImageSets.of(colored))
    key = jax.random.key(0)
    task = made.sample(key)
    params, state = made.init(key, task)
    loss = jax.jit(jax.value_and_grad(lambda p: made.loss(p, state, task, key)[0]))
    first, _ = loss(params)
    for _ in range(30):
        _, grads = loss(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    assert np.isfinite(first)
    assert loss(params)[0] < 0.98 * first


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_by_patches_is_a_convolution(stride):
    """Against XLA's own, 3x3, same padding."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(patches(x, stride) @ kernel.reshape(27, 5), expected, atol=1e-5)


def learned(family, steps=300, learning_rate=0.3):
    """The evaluated loss before and after gradient descent, and the model state after it."""
    key = jax.random.key(0)
    task = family.sample(key)
    params, state = family.init(key, task)
    before = family.evaluate(params, state, task, key)["loss"]
    loss = jax.jit(jax.value_and_grad(family.loss, has_aux=True))
    for step_key in jax.random.split(key, steps):
        (_, state), grads = loss(params, state, task, step_key)
        params = jax.tree.map(lambda p, g: p - learning_rate * g, params, grads)
    return before, family.evaluate(params, state, task, key)["loss"], state


def test_running_statistics_are_carried_from_step_to_step():
    """A network is evaluated by the averages over its training; a fresh one's would be wrong."""
    before, after, state = learned(BatchNorm(), learning_rate=0.05)
    assert after < 0.1 * before
    assert abs(state["mean"]).max() > 0.1


def test_batches_may_be_drawn_by_the_policy_that_is_trained():
    before, after, state = learned(Bandit())
    assert after < before - 0.1
    assert state["baseline"] > 0.5
