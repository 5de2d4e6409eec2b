"""Labeled images by name: `load`. They are downloaded, or read from the user's own folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celo2.data import download
from celo2.data.formats import Images
from celo2.data.sources import SOURCES, Source
from celo2.errors import InputError


class LabeledSet(NamedTuple):
    """Flat images (n, pixels), uint8 or float32 in [0, 1], and labels (n,), for task families."""

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: int
    """Labels are 0..classes - 1."""


class Dataset(NamedTuple):
    """Images to train on and images never trained on."""

    name: str
    train: Images
    held_out: Images
    classes: int

    def flat(self) -> tuple[LabeledSet, LabeledSet]:
        """Return the images to train on and those held out, each image as one row."""
        train, held_out = (
            LabeledSet(
                self.name, part.images.reshape(len(part.images), -1), part.labels, self.classes
            )
            for part in (self.train, self.held_out)
        )
        return train, held_out


def load(name: str, path: Path | None = None) -> Dataset:
    """Load a data set by name, downloading it at the first call, or from the user's folder `path`.

    Raises:
        InputError: unknown name, files that are absent or damaged, or what `download.fetch` raises.
    """
    source = _source(name)
    folder = path or download.fetch(name, source.files, source.fallback)
    dataset = Dataset(name, *source.read(folder), source.classes)
    for part in (dataset.train, dataset.held_out):
        images, labels, largest = part.images, part.labels, part.labels.max(initial=0)
        if images.ndim != 4 or len(images) != len(labels) or largest >= source.classes:
            raise InputError(
                f"{name} in {folder} has images {images.shape} and labels {labels.shape} up to "
                f"{largest}; there must be as many labels as images, and {source.classes} classes"
            )
    return dataset


def fetched(name: str) -> bool:
    """Return whether a data set is in the cache.

    Raises:
        InputError: unknown name.
    """
    return download.fetched(name, _source(name).fallback)


def check(name: str, path: Path | None = None) -> int:
    """Compare a data set with the published one: return the number of parts compared.

    Raises:
        InputError: a part differs, or what `load` raises.
    """
    source, dataset = _source(name), load(name, path)
    parts = {"training": dataset.train, "held-out": dataset.held_out}
    for (which, part), published in zip(parts.items(), source.sha256, strict=False):
        found = hashlib.sha256(part.images.tobytes() + part.labels.tobytes()).hexdigest()
        if found != published:
            raise InputError(
                f"the {which} part of {name} has sha256 {found}, the published one {published}; "
                f"delete {path or 'it from the cache'} and get it again"
            )
    return len(source.sha256)


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise InputError(f"unknown data set {name!r}: take one of {', '.join(SOURCES)}")
    return SOURCES[name]
