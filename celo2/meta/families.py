"""The networks that theta is learned on, by name: all small, all on 8x8 grey images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from celo2.data.images import LabelledSet
from celo2.data.offline import SIZE
from celo2.errors import InputError
from celo2.meta.config import MetaConfig
from celo2.tasks.autoencoder import Autoencoder
from celo2.tasks.base import TaskFamily
from celo2.tasks.conv import ConvNet
from celo2.tasks.mlp import ImageMLP
from celo2.tasks.reparametrize import Reparametrize


def _mlp(sets: Sequence[LabelledSet], train_size: int | None) -> TaskFamily:
    """64-32-10, as published."""
    return ImageMLP.of(sets, train_size=train_size)


def _deep_mlp(sets: Sequence[LabelledSet], train_size: int | None) -> TaskFamily:
    """64-32-32-32-10."""
    return ImageMLP.of(sets, hidden=(32, 32, 32), train_size=train_size)


def _autoencoder(sets: Sequence[LabelledSet], train_size: int | None) -> TaskFamily:
    """64-32-8-32-64 on the images of all sets, as many of each."""
    least = min(len(s.images) for s in sets)
    return Autoencoder(jnp.asarray(np.concatenate([s.images[:least] for s in sets])), (32, 8), 64, train_size)


def _conv(sets: Sequence[LabelledSet], train_size: int | None) -> TaskFamily:
    """Two convolutions of 8 and 16 channels and a linear head, on the third set: photos, or CIFAR-10."""
    images = sets[2].images.reshape(-1, SIZE, SIZE, 1)
    return ConvNet(jnp.asarray(images), jnp.asarray(sets[2].labels, jnp.int32), (8, 16), 32, train_size)


FAMILIES: dict[str, Callable[[Sequence[LabelledSet], int | None], TaskFamily]] = {
    "mlp": _mlp,
    "deep-mlp": _deep_mlp,
    "autoencoder": _autoencoder,
    "conv": _conv,
}


def task_families(config: MetaConfig, sets: Sequence[LabelledSet]) -> list[TaskFamily]:
    """The families of a configuration, augmented.

    Raises:
        InputError: none, or an unknown one.
    """
    unknown = set(config.families) - set(FAMILIES)
    if unknown or not config.families:
        raise InputError(f"families is {config.families}; take some of {', '.join(FAMILIES)}")
    alpha, granularity = config.augmentation.alpha, config.augmentation.granularity
    return [Reparametrize(FAMILIES[name](sets, config.train_size), *alpha, granularity) for name in config.families]
