"""The validation problems: fixed before any theta was searched for, and never meta-trained on. Thetas are chosen by them.

None of them is a problem of a benchmark; those have to stay unseen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from celo2.data.images import LabelledSet, load
from celo2.data.text import standard_library
from celo2.errors import InputError
from celo2.tasks.autoencoder import Autoencoder
from celo2.tasks.base import TaskFamily
from celo2.tasks.conv import ConvNet
from celo2.tasks.image_sets import ImageSets
from celo2.tasks.lstm import ByteLSTM
from celo2.tasks.mlp import ImageMLP
from celo2.tasks.transformer import ByteTransformer

HELD_OUT_BATCHES = 32


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network to train for a number of steps, and batches never trained on to score it by."""

    name: str
    train: TaskFamily
    held_out: TaskFamily
    """The same family over other data."""
    steps: int

    def held_out_batches(self) -> Any:
        """The same batches for every run."""
        keys = jax.random.split(jax.random.key(2**31 - 1), HELD_OUT_BATCHES)
        task = self.held_out.sample(keys[0])
        return jax.vmap(lambda key: self.held_out.batch(key, task))(keys)


def _byte_transformer(steps: int) -> Problem:
    text = standard_library()
    train, held_out = (ByteTransformer(jnp.asarray(part)) for part in (text.train, text.held_out))
    return Problem("byte-transformer", train, held_out, steps)


def _byte_lstm(steps: int) -> Problem:
    text = standard_library()
    train, held_out = (ByteLSTM(jnp.asarray(part)) for part in (text.train, text.held_out))
    return Problem("byte-lstm", train, held_out, steps)


def _fashion_mlp(steps: int) -> Problem:
    train, held_out = (ImageMLP(part, (128, 128)) for part in _image_sets("fashion-mnist", 128))
    return Problem("fashion-mlp", train, held_out, steps)


def _autoencoder(steps: int) -> Problem:
    train, held_out = (Autoencoder(part) for part in _image_sets("mnist", 128))
    return Problem("mnist-autoencoder", train, held_out, steps)


def _cifar_conv(steps: int) -> Problem:
    train, held_out = (ConvNet(part, channels=3) for part in _image_sets("cifar10", 64))
    return Problem("cifar10-conv", train, held_out, steps)


def _image_sets(name: str, batch_size: int) -> tuple[ImageSets, ImageSets]:
    """The images to train on and those held out, as they are."""
    train, held_out = (
        ImageSets.of([LabelledSet(name, part.images.reshape(len(part.images), -1), part.labels)], batch_size)
        for part in load(name)[1:]
    )
    return train, held_out


VALIDATION: dict[str, tuple[Callable[[int], Problem], int]] = {
    "byte-transformer": (_byte_transformer, 400),
    "cifar10-conv": (_cifar_conv, 400),
    "fashion-mlp": (_fashion_mlp, 400),
    "mnist-autoencoder": (_autoencoder, 400),
    "byte-lstm": (_byte_lstm, 400),
}
"""Name: what makes it, and its steps."""


def problem(name: str, longer: int = 1) -> Problem:
    """A validation problem by name, at `longer` times its steps.

    Raises:
        InputError: unknown name, or data that cannot be had.
    """
    if name not in VALIDATION:
        raise InputError(f"unknown problem {name!r}: take some of {', '.join(VALIDATION)}")
    make, steps = VALIDATION[name]
    return make(longer * steps)
