"""Read the file formats of image sets.

They are IDX (MNIST), CIFAR-10's binary batches, CIFAR-10 as rows of PNG files, and SVHN's MATLAB
files. Anything else raises InputError.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celo2.errors import InputError

CIFAR_RECORD = 1 + 3 * 32 * 32
CIFAR_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
IDX_FILES = ("train-images", "train-labels", "t10k-images", "t10k-labels")
AGAIN = "delete it and get it again from its source"


class Images(NamedTuple):
    """Images (n, height, width, channels) and labels (n,), both uint8."""

    images: np.ndarray
    labels: np.ndarray


Split = tuple[Images, Images]
"""Images to train on and images never trained on."""


def idx_folder(folder: Path) -> Split:
    """Read the four IDX files of MNIST or Fashion-MNIST, each gzipped or not.

    Raises:
        InputError: a file is absent or damaged.
    """
    arrays = []
    for name in IDX_FILES:
        rank = 3 if name.endswith("images") else 1
        stem = f"{name}-idx{rank}-ubyte"
        array = idx(_existing(folder, stem, f"{stem}.gz", f"{name}.idx{rank}-ubyte"))
        if array.ndim != rank:
            raise InputError(f"{name} in {folder} has {array.ndim} axes, not {rank}; {AGAIN}")
        arrays.append(array)
    return Images(arrays[0][..., None], arrays[1]), Images(arrays[2][..., None], arrays[3])


def idx(path: Path) -> np.ndarray:
    """Read the uint8 array of an IDX file, gzipped or not.

    Raises:
        InputError: the file is not an IDX file of bytes, or damaged.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"{path} is not a complete gzip file ({error}); {AGAIN}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise InputError(f"{path} is not an IDX file of bytes; give a file of the MNIST format")
    rank = content[3]
    header = 4 + 4 * rank
    if len(content) < header:
        raise InputError(f"{path} ends within its header of {header} bytes; {AGAIN}")
    shape = struct.unpack(f">{rank}I", content[4:header])
    if len(content) != header + math.prod(shape):
        raise InputError(
            f"{path} should hold {shape} bytes and holds {len(content) - header}; {AGAIN}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def cifar_folder(folder: Path) -> Split:
    """Read CIFAR-10 as published, in binary batches, or as the rows of PNG files with JSON labels.

    Raises:
        InputError: a file is absent or damaged.
    """
    if (folder / "train_lables.json").exists():  # the package spells it so
        train = [png_rows(_existing(folder, f"{batch}.png")) for batch in CIFAR_BATCHES]
        held_out = png_rows(_existing(folder, "test_batch.png"))
        labels = json_labels(folder / "train_lables.json")
        held_out_labels = json_labels(_existing(folder, "test_lables.json"))
        return Images(np.concatenate(train), labels), Images(held_out, held_out_labels)
    paths = [_existing(folder, f"{batch}.bin") for batch in CIFAR_BATCHES]
    return cifar_binary(paths), cifar_binary([_existing(folder, "test_batch.bin")])


def cifar_binary(paths: Sequence[Path]) -> Images:
    """Read CIFAR-10's binary batches: records of a label and three planes of 32x32.

    Raises:
        InputError: a file is not made of such records.
    """
    records = []
    for path in paths:
        content = np.fromfile(path, np.uint8)
        if content.size % CIFAR_RECORD or not content.size:
            raise InputError(
                f"{path} is not made of records of {CIFAR_RECORD} bytes; "
                "give CIFAR-10's binary version"
            )
        records.append(content.reshape(-1, CIFAR_RECORD))
    table = np.concatenate(records)
    images = table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Images(np.ascontiguousarray(images), table[:, 0].copy())


def png_rows(path: Path) -> np.ndarray:
    """Read images (n, 32, 32, 3) from a PNG file with one image per row, 1024 pixels wide.

    Raises:
        InputError: the file is not such a PNG file, or damaged.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path} is not CIFAR-10 as rows of a PNG ({error}); {AGAIN}") from error


def json_labels(path: Path) -> np.ndarray:
    """Read labels from a JSON list of numbers.

    Raises:
        InputError: the file is anything else, or a number is not in 0..255.
    """
    try:
        return np.array(json.loads(path.read_text()), np.uint8).reshape(-1)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path} is not a list of labels ({error}); {AGAIN}") from error


def svhn_folder(folder: Path) -> Split:
    """Read SVHN's cropped digits.

    Raises:
        InputError: a file is absent or damaged.
    """
    train, held_out = (_existing(folder, f"{part}_32x32.mat") for part in ("train", "test"))
    return svhn_mat(train), svhn_mat(held_out)


def svhn_mat(path: Path) -> Images:
    """Read one MATLAB file of SVHN, which calls zero 10 and has the axis of the images last.

    Raises:
        InputError: the file is anything else.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    remedy = "give SVHN's train_32x32.mat or test_32x32.mat"
    try:
        content = loadmat(path)
        x, y = content["X"], content["y"]
    except (KeyError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise InputError(f"{path} is not SVHN's cropped digits ({error}); {remedy}") from error
    if x.ndim != 4 or x.dtype != np.uint8:
        raise InputError(f"X in {path} is {x.dtype} of shape {x.shape}; {remedy}")
    labels = (y.reshape(-1) % 10).astype(np.uint8)
    return Images(np.ascontiguousarray(x.transpose(3, 0, 1, 2)), labels)


def _existing(folder: Path, *names: str) -> Path:
    """Return the first of these files that exists."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder} holds no {names[0]}; give the folder with the unpacked files")
