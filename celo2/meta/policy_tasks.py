"""The tasks on which a policy is learned: small networks on data of their own, none of validation.

Images are the four offline sets and the street digits at 8x8; text is drawn from a random source.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from celo2.data.images import LabeledSet
from celo2.data.synthetic.offline import offline_sets
from celo2.data.synthetic.street import street_digits
from celo2.tasks.autoencoder import Autoencoder
from celo2.tasks.base import TaskFamily
from celo2.tasks.conv import ConvNet
from celo2.tasks.image_sets import ImageSets
from celo2.tasks.mlp import ImageMLP
from celo2.tasks.registry import SYNTHETIC


def _images(batch_size: int) -> ImageSets:
    return ImageSets.of(_sets(), batch_size=batch_size, train_size=4096)


@functools.cache
def _sets() -> list[LabeledSet]:
    return [*offline_sets(0), street_digits(False)]


TASKS: dict[str, Callable[[], TaskFamily]] = {
    "mlp": lambda: ImageMLP(_images(64), hidden=(32,)),
    "wide-mlp": lambda: ImageMLP(_images(32), hidden=(96,)),
    "conv": lambda: ConvNet(_images(16), widths=(8, 16)),
    "autoencoder": lambda: Autoencoder(_images(32), widths=(32, 8)),
    "transformer": SYNTHETIC["text-transformer"],
    "lstm": SYNTHETIC["text-lstm"],
}
"""By name; data are made at the call."""
