"""Protects the image classifiers of the benchmark and their augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from celo2.data.images import LabeledSet
from celo2.tasks.augmented import MARGIN, Augmented
from celo2.tasks.image_sets import ImageSets
from celo2.tasks.layers import group_norm, layer_norm, tiles
from celo2.tasks.mixer import Mixer
from celo2.tasks.resnet import ResNet
from celo2.tasks.vit import ViT
from tests.tasks.learning import adamw

pytestmark = pytest.mark.slow

CLASSES = 3


def colored(seed, count=96):
    """Color images of 16x16 pixels; the class is which channel is brightest."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count)
    images = rng.integers(0, 120, size=(count, 16, 16, 3))
    images[np.arange(count), ..., labels] += 60
    return LabeledSet("colored", images.reshape(count, -1).astype(np.uint8), labels, CLASSES)


@pytest.fixture(scope="module")
def sets():
    return ImageSets.of([colored(0)], [colored(1)], batch_size=16)


NETWORKS = {
    "resnet": lambda data: ResNet(data, widths=(8, 16)),
    "vit": lambda data: ViT(data, width=32, depth=1),
    "mixer": lambda data: Mixer(data, channels=3, width=16, depth=1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_classifier_learns_and_reports_its_accuracy(name, sets):
    before, after = adamw(NETWORKS[name](Augmented(sets)), steps=40)
    assert abs(before["loss"] - np.log(CLASSES)) < 1
    assert after["loss"] < 0.8 * before["loss"]
    assert after["accuracy"] > 0.6


def test_the_vision_transformer_sees_tiles_in_order():
    """Against slices taken by hand."""
    images = jnp.arange(2 * 8 * 8 * 3.0).reshape(2, 8, 8, 3)
    cut = tiles(images, 4)
    assert cut.shape == (2, 4, 48)
    np.testing.assert_array_equal(cut[1, 2], images[1, 4:8, 0:4].ravel())


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm_is_torchs(groups):
    rng = np.random.default_rng(0)
    x = 3 * rng.normal(size=(2, 5, 5, 8)).astype(np.float32) + 1
    scale, shift = rng.normal(size=(2, 8)).astype(np.float32)
    expected = torch.nn.functional.group_norm(
        torch.tensor(x).permute(0, 3, 1, 2), groups, torch.tensor(scale), torch.tensor(shift)
    ).permute(0, 2, 3, 1)
    found = group_norm({"n.scale": scale, "n.shift": shift}, "n", jnp.asarray(x), groups)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_layer_norm_is_torchs():
    rng = np.random.default_rng(0)
    x = 3 * rng.normal(size=(4, 8)).astype(np.float32) + 1
    scale, shift = rng.normal(size=(2, 8)).astype(np.float32)
    expected = torch.nn.functional.layer_norm(
        torch.tensor(x), (8,), torch.tensor(scale), torch.tensor(shift)
    )
    found = layer_norm({"n.scale": scale, "n.shift": shift}, "n", jnp.asarray(x))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_augmentation_shifts_and_mirrors_what_is_trained_on_only():
    """Each training image is one of the shifts of the one image there is, or of its mirror image;
    held-out images are as they were.
    """
    image = np.random.default_rng(0).integers(1, 256, (16, 16, 3)).astype(np.uint8)
    one = LabeledSet("one", image.reshape(1, -1), np.zeros(1, int), CLASSES)
    data = Augmented(ImageSets.of([one], [one], batch_size=64))
    task = data.sample(jax.random.key(0))
    possible, margins = set(), ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
    for source in (image, image[:, ::-1]):
        padded = np.pad(source, margins)
        for i in range(2 * MARGIN + 1):
            for j in range(2 * MARGIN + 1):
                possible.add(padded[i : i + 16, j : j + 16].tobytes())
    drawn = set()
    for row in jax.jit(data.batch)(jax.random.key(0), task).images:
        drawn.add(np.round(np.asarray(row) * 255).astype(np.uint8).tobytes())
    assert drawn <= possible
    assert len(drawn) > 30
    held_out = data.held_out_batch(jax.random.key(0), task).images
    np.testing.assert_allclose(held_out[0] * 255, image.ravel(), atol=1e-3)


def test_training_and_held_out_images_are_different_ones(sets):
    data = Augmented(sets)
    task = data.sample(jax.random.key(0))
    known = {row.tobytes() for row in colored(1).images}
    for row in data.held_out_batch(jax.random.key(0), task).images:
        assert np.round(np.asarray(row) * 255).astype(np.uint8).tobytes() in known
