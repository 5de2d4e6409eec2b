"""The image sets of meta-training, 8x8: those of the paper, or four that need no download."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from celo2.data.images import LabelledSet, load
from celo2.data.offline import SIZE, offline_sets
from celo2.data.street import street_digits
from celo2.errors import InputError

PUBLISHED = ("mnist", "fashion-mnist", "cifar10", "svhn")


def small_sets(
    which: Literal["offline", "published"], seed: int, paths: Mapping[str, Path], colour: bool = False
) -> list[LabelledSet]:
    """Four sets of ten classes each; those that are drawn are drawn from `seed`. Grey sets in colour have equal channels.

    `paths` are folders of the user's own copies, by name. Without one for "svhn", street digits stand in for it.

    Raises:
        InputError: data that cannot be had; a path for a set that is not used.
    """
    unused = set(paths) - set(PUBLISHED if which == "published" else ())
    if unused:
        raise InputError(f"a path is given for {', '.join(sorted(unused))}, which the {which} tasks do not use; leave it out")
    if which == "offline":
        grey = offline_sets(seed)
        return [s._replace(images=np.repeat(s.images, 3, 1)) for s in grey] if colour else grey
    sets = []
    for name in PUBLISHED:
        if name == "svhn" and name not in paths:
            sets.append(street_digits(colour))
        else:
            train = load(name, paths.get(name)).train
            sets.append(LabelledSet(name, shrunk(train.images, colour), train.labels))
    return sets


def shrunk(images: np.ndarray, colour: bool = False) -> np.ndarray:
    """uint8 images (n, height, width, channels) as float32 in [0, 1], 8x8 and flat: (n, 64), or (n, 192) in colour.

    As the reference does it: divided by 255, bilinear without antialiasing, then the mean of the channels.
    """
    _, height, width, channels = images.shape
    small = np.einsum("ih,nhwc,jw->nijc", _bilinear(height), images.astype(np.float32) / 255, _bilinear(width), optimize=True)
    small = np.repeat(small, 3 // channels, -1) if colour else small.mean(-1)
    return small.reshape(len(images), -1)


def _bilinear(length: int) -> np.ndarray:
    """(8, length): each row interpolates between the two pixels nearest to a sample, centres at half pixels."""
    at = np.clip((np.arange(SIZE) + 0.5) * length / SIZE - 0.5, 0, length - 1)
    low = np.floor(at).astype(int)
    matrix = np.zeros((SIZE, length), np.float32)
    matrix[np.arange(SIZE), low] += 1 - (at - low)
    matrix[np.arange(SIZE), np.minimum(low + 1, length - 1)] += at - low
    return matrix
