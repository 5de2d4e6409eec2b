"""File formats of image sets: IDX (MNIST), CIFAR binary, CIFAR rows in a PNG, SVHN's MATLAB files."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from celo2.errors import InputError

CIFAR_RECORD = 1 + 3 * 32 * 32


def idx(path: Path) -> np.ndarray:
    """The uint8 array of an IDX file, gzipped or not.

    Raises:
        InputError: the file is not an IDX file of bytes, or not whole.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise InputError(f"{path} is not an IDX file of bytes; give a file of the MNIST format")
    rank = content[3]
    header = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", content[4:header])
    if len(content) != header + int(np.prod(shape)):
        raise InputError(
            f"{path} should hold {shape} bytes and holds {len(content) - header}; take it from its source again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def cifar_binary(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(images (n, 32, 32, 3), labels (n,)), both uint8, of CIFAR-10's binary batches.

    Raises:
        InputError: a file is not made of records of a label and 3072 pixels.
    """
    for path in paths:
        if path.stat().st_size % CIFAR_RECORD or not path.stat().st_size:
            raise InputError(
                f"{path} is not made of records of {CIFAR_RECORD} bytes; give CIFAR-10's binary version"
            )
    records = np.concatenate(
        [np.fromfile(path, np.uint8).reshape(-1, CIFAR_RECORD) for path in paths]
    )
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].copy()


def cifar_rows(path: Path) -> np.ndarray:
    """Images (n, 32, 32, 3) uint8 of a PNG with one image a row, 1024 pixels wide."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)


def svhn_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(images (n, 32, 32, 3), labels (n,) in 0..9), both uint8, of a cropped-digits file of SVHN; the file calls zero 10.

    Raises:
        InputError: the file lacks X or y.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path)
        x, y = content["X"], content["y"]
    except (KeyError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{path} is not SVHN's cropped digits ({error}); give train_32x32.mat or test_32x32.mat"
        ) from error
    return np.ascontiguousarray(x.transpose(3, 0, 1, 2)), (y.reshape(-1) % 10).astype(np.uint8)
