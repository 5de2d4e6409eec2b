"""All task families by name: small ones for meta-training, full-size ones for evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import jax.numpy as jnp
import numpy as np

from celo2.data.images import LabeledSet, load
from celo2.data.resize import SIZE, resize
from celo2.data.synthetic.offline import offline_sets
from celo2.data.synthetic.random_text import HELD_OUT, random_text
from celo2.data.synthetic.street import street_digits
from celo2.data.text import standard_library
from celo2.errors import InputError
from celo2.tasks.autoencoder import Autoencoder
from celo2.tasks.base import TaskFamily
from celo2.tasks.benchmark import BENCHMARK, images
from celo2.tasks.conv import ConvNet
from celo2.tasks.image_sets import ImageSets
from celo2.tasks.ladder import LADDER
from celo2.tasks.lstm import ByteLSTM
from celo2.tasks.mlp import ImageMLP
from celo2.tasks.rl.games import RL
from celo2.tasks.teacher import Student, Teachers
from celo2.tasks.text_sets import TextWindows
from celo2.tasks.transformer import ByteTransformer

PUBLISHED = ("mnist", "fashion-mnist", "cifar10", "svhn")

SMALL: dict[str, Callable[[ImageSets], TaskFamily]] = {
    "mlp": ImageMLP,  # 64-32-10, as published
    "deep-mlp": lambda data: ImageMLP(data, hidden=(32, 32, 32)),
    "wide-mlp": lambda data: ImageMLP(dataclasses.replace(data, batch_size=16), hidden=(128,)),
    "autoencoder": lambda data: Autoencoder(data, widths=(32, 8)),
    "conv": lambda data: ConvNet(data, channels=data.pixels // SIZE**2, widths=(8, 16)),
}
"""Networks on 8x8 images, which the caller chooses: see `small_sets`."""

SYNTHETIC: dict[str, Callable[[], TaskFamily]] = {
    "text-transformer": lambda: ByteTransformer(_random_text(0, 16, 8), width=32, depth=1),
    "text-lstm": lambda: ByteLSTM(_random_text(1, 16, 8), embedding_width=16, width=32),
    "teacher": lambda: Student(Teachers()),
}
"""Small networks that need no images: on a random text, of which a run of 5,000 steps reads less
than there is, and on teachers, drawn per batch. The data are made at the call."""

FULL: dict[str, Callable[[], TaskFamily]] = {
    "byte-transformer": lambda: ByteTransformer(_text(context=64, batch_size=16)),
    "byte-lstm": lambda: ByteLSTM(_text(context=32, batch_size=32)),
    "fashion-mlp": lambda: ImageMLP(images("fashion-mnist", 128), hidden=(128, 128)),
    "mnist-autoencoder": lambda: Autoencoder(images("mnist", 128)),
    "cifar10-conv": lambda: ConvNet(images("cifar10", 64), channels=3),
    **BENCHMARK,
    **LADDER,
    **RL,
}
"""Networks on a data set of their own, with its held-out part; the data are loaded at the call."""

Made = TypeVar("Made")


def small_family(name: str, data: ImageSets) -> TaskFamily:
    """Make a family of `SMALL` by name.

    Raises:
        InputError: there is no such family.
    """
    return _named(name, SMALL)(data)


def synthetic_family(name: str) -> TaskFamily:
    """Make a family of `SYNTHETIC` by name.

    Raises:
        InputError: there is no such family.
    """
    return _named(name, SYNTHETIC)()


def full_family(name: str) -> TaskFamily:
    """Make a family of `FULL` by name.

    Raises:
        InputError: there is no such family, or its data cannot be had.
    """
    return _named(name, FULL)()


def small_sets(
    which: Literal["offline", "published"],
    seed: int,
    paths: Mapping[str, Path],
    color: bool = False,
) -> list[LabeledSet]:
    """Load four sets of ten classes, 8x8 pixels: those of the paper, or four that need no download.

    Args:
        which: the choice.
        seed: of the offline sets that are drawn at random.
        paths: folders of the user's own copies, by name. Without one for "svhn", street digits
            stand in for it.
        color: three channels, equal ones where a set is gray, instead of their mean.

    Raises:
        InputError: data that cannot be had, or a path for a set that is not used.
    """
    unused = sorted(set(paths) - set(PUBLISHED if which == "published" else ()))
    if unused:
        raise InputError(
            f"a path is given for {', '.join(unused)}, which the {which} tasks do not use; "
            "leave it out"
        )
    if which == "published":
        return [_published(name, paths.get(name), color) for name in PUBLISHED]
    sets = offline_sets(seed)
    return [s._replace(images=np.repeat(s.images, 3, 1)) for s in sets] if color else sets


def _published(name: str, path: Path | None, color: bool) -> LabeledSet:
    if name == "svhn" and path is None:
        return street_digits(color)
    data = load(name, path)
    return LabeledSet(name, resize(data.train.images, color), data.train.labels, data.classes)


def _random_text(seed: int, context: int, batch_size: int) -> TextWindows:
    text = jnp.asarray(random_text(seed))
    return TextWindows(text[:-HELD_OUT], text[-HELD_OUT:], context, batch_size)


def _text(context: int, batch_size: int) -> TextWindows:
    text = standard_library()
    return TextWindows(jnp.asarray(text.train), jnp.asarray(text.held_out), context, batch_size)


def _named(name: str, families: Mapping[str, Made]) -> Made:
    if name not in families:
        raise InputError(f"unknown task family {name!r}: take one of {', '.join(families)}")
    return families[name]
