"""The networks that theta is learned on, by name: all small, all on 8x8 images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from celo2.data.images import LabelledSet
from celo2.data.offline import SIZE
from celo2.errors import InputError
from celo2.meta.config import MetaConfig
from celo2.tasks.autoencoder import Autoencoder
from celo2.tasks.base import TaskFamily
from celo2.tasks.conv import ConvNet
from celo2.tasks.image_sets import ImageSets
from celo2.tasks.mlp import ImageMLP
from celo2.tasks.reparametrize import Reparametrize

FAMILIES: dict[str, Callable[[ImageSets], TaskFamily]] = {
    "mlp": ImageMLP,  # 64-32-10, as published
    "deep-mlp": lambda data: ImageMLP(data, hidden=(32, 32, 32)),
    "autoencoder": lambda data: Autoencoder(data, widths=(32, 8)),
    "conv": lambda data: ConvNet(data, channels=data.pixels // SIZE**2, widths=(8, 16)),
}


def task_families(config: MetaConfig, sets: Sequence[LabelledSet]) -> list[TaskFamily]:
    """The families of a configuration, augmented.

    Raises:
        InputError: none, or an unknown one.
    """
    unknown = set(config.families) - set(FAMILIES)
    if unknown or not config.families:
        raise InputError(f"families is {config.families}; take some of {', '.join(FAMILIES)}")
    augmentation = config.augmentation
    data = ImageSets.of(sets, train_size=config.train_size, rare_inputs=augmentation.rare_inputs)
    return [Reparametrize(FAMILIES[name](data), *augmentation.alpha, augmentation.granularity) for name in config.families]
