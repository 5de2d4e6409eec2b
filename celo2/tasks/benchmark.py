"""The families of the benchmark's problems, by name; the data are loaded at the call."""

from __future__ import annotations

from collections.abc import Callable

from celo2.data.images import load
from celo2.tasks.augmented import Augmented
from celo2.tasks.base import TaskFamily
from celo2.tasks.image_sets import ImageSets
from celo2.tasks.mixer import Mixer
from celo2.tasks.resnet import ResNet
from celo2.tasks.vit import ViT


def images(name: str, batch_size: int) -> ImageSets:
    """Load a data set with its held-out part."""
    train, held_out = load(name).flat()
    return ImageSets.of([train], [held_out], batch_size)


BENCHMARK: dict[str, Callable[[], TaskFamily]] = {
    "cifar10-resnet": lambda: ResNet(Augmented(images("cifar10", 32))),
    "cifar10-vit": lambda: ViT(Augmented(images("cifar10", 32))),
    "fashion-mixer": lambda: Mixer(images("fashion-mnist", 32)),
}
