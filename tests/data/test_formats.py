"""Protects the reading of data files: damaged ones are refused in one sentence."""

import gzip
import json
import struct

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from celo2 import InputError
from celo2.data.formats import CIFAR_BATCHES, cifar_binary, cifar_folder, idx, svhn_mat
from celo2.data.images import check, load

RNG = np.random.default_rng(0)


def bytes_of(shape, high=256):
    return RNG.integers(high, size=shape).astype(np.uint8)


def idx_bytes(array):
    return (
        bytes((0, 0, 8, array.ndim))
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


@pytest.fixture
def mnist(tmp_path):
    """A folder in MNIST's format, one file of it gzipped, and the images in it."""
    images = bytes_of((30, 28, 28))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(bytes_of(30, 10)))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(idx_bytes(bytes_of((10, 28, 28))))
    )
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(bytes_of(10, 10)))
    return tmp_path, images


def test_a_users_idx_folder(mnist):
    folder, images = mnist
    data = load("mnist", folder)
    np.testing.assert_array_equal(data.train.images[..., 0], images)
    assert data.held_out.images.shape == (10, 28, 28, 1)
    assert data.flat()[0].images.shape == (30, 784)
    with pytest.raises(
        InputError,
        match=r"the training part of mnist has sha256 \w+, the published one edc0d1098aa497be",
    ):
        check("mnist", folder)


def test_a_users_cifar_folder(tmp_path):
    """A record is a label and three planes of 32x32."""
    records = bytes_of((50, 3073), 10)
    for i in range(5):
        records[i * 10 : i * 10 + 10].tofile(tmp_path / f"data_batch_{i + 1}.bin")
    records[:10].tofile(tmp_path / "test_batch.bin")
    data = load("cifar10", tmp_path)
    np.testing.assert_array_equal(data.train.labels, records[:, 0])
    assert data.train.images[7, 3, 5, 2] == records[7, 1 + 2 * 1024 + 3 * 32 + 5]


@pytest.fixture
def png_folder(tmp_path):
    """CIFAR-10 as its package has it: two images per PNG file, one per row, and labels in JSON."""
    images = bytes_of((6, 2, 1024, 3))
    for rows, name in zip(images, (*CIFAR_BATCHES, "test_batch"), strict=True):
        Image.fromarray(rows).save(tmp_path / f"{name}.png")
    (tmp_path / "train_lables.json").write_text(json.dumps([i % 10 for i in range(10)]))
    (tmp_path / "test_lables.json").write_text("[3, 4]")
    return tmp_path, images


def test_cifar_as_rows_of_png_files(png_folder):
    folder, images = png_folder
    train, held_out = cifar_folder(folder)
    np.testing.assert_array_equal(train.images, images[:5].reshape(10, 32, 32, 3))
    np.testing.assert_array_equal(held_out.labels, [3, 4])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[3, ", "Expecting value"),
        ("[300, 1]", "out of bounds"),
        ('{"a": 1}', "dict"),
        ('["x", 1]', "x"),
    ],
)
def test_cifar_labels_that_are_cut_or_out_of_range_are_refused(png_folder, content, reason):
    folder, _ = png_folder
    (folder / "test_lables.json").write_text(content)
    with pytest.raises(
        InputError, match=rf"test_lables.json is not a list of labels \(.*{reason}.*\); delete it"
    ):
        cifar_folder(folder)


def test_a_cifar_png_that_is_cut_is_refused(png_folder):
    folder, _ = png_folder
    path = folder / "data_batch_2.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"data_batch_2.png is not CIFAR-10 as rows of a PNG"):
        cifar_folder(folder)


def test_a_label_beyond_the_classes_is_refused(mnist):
    folder, _ = mnist
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(10, 200, np.uint8)))
    with pytest.raises(
        InputError,
        match=r"labels .* up to 200; there must be as many labels as images, and 10 classes",
    ):
        load("mnist", folder)


def test_a_users_svhn_folder(tmp_path):
    """SVHN calls zero 10, and its images come last axis first."""
    x, y = bytes_of((32, 32, 3, 12)), np.arange(12)[:, None] % 10 + 1
    for kind in ("train", "test"):
        savemat(tmp_path / f"{kind}_32x32.mat", {"X": x, "y": y})
    data = load("svhn", tmp_path)
    np.testing.assert_array_equal(data.train.labels, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2])
    np.testing.assert_array_equal(data.train.images[4], x[..., 4])


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file", bytes(400)])
def test_an_svhn_file_that_is_empty_or_cut_is_refused(tmp_path, content):
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(content)
    with pytest.raises(
        InputError,
        match=r"train_32x32.mat is not SVHN's cropped digits .* give SVHN's train_32x32.mat",
    ):
        svhn_mat(path)


def test_an_svhn_file_of_another_rank_is_refused(tmp_path):
    path = tmp_path / "train_32x32.mat"
    savemat(path, {"X": np.zeros(3), "y": np.zeros(3)})
    with pytest.raises(
        InputError, match=r"X in .*train_32x32.mat is float64 of shape \(1, 3\); give SVHN's"
    ):
        svhn_mat(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"\0\0\x0d\x01" + bytes(20),
            "is not an IDX file of bytes; give a file of the MNIST format",
        ),
        (
            b"\0\0\x08\x01" + struct.pack(">I", 100) + bytes(20),
            r"should hold \(100,\) bytes and holds 20",
        ),
        (
            b"\0\0\x08\x03" + bytes(5),
            "ends within its header of 16 bytes; delete it and get it again",
        ),
        (
            b"\0\0\x08\x03" + struct.pack(">3I", *[2**31] * 3),
            r"should hold \(2147483648, .* and holds 0; delete it",
        ),
        (gzip.compress(bytes(1000))[:20], "is not a complete gzip file"),
        (gzip.compress(bytes(1000))[:12] + b"\xff" * 30, "is not a complete gzip file"),
    ],
    ids=[
        "another type",
        "too short",
        "cut in the header",
        "overflowing shape",
        "gzip cut",
        "gzip altered",
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, content, message):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        idx(path)


def test_files_that_are_something_else_are_refused(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(bytes(20))
    with pytest.raises(InputError, match="is not made of records of 3073 bytes"):
        cifar_binary([other])
    with pytest.raises(
        InputError,
        match="holds no train-images-idx3-ubyte; give the folder with the unpacked files",
    ):
        load("mnist", tmp_path)
