"""Street digits: a synthetic stand-in for photographs of house numbers, made here of type faces over patches of photos.

They are NOT SVHN, which no registry carries; `celo2.data.images.load("svhn", path)` reads the real files where a user has
them. The recipe follows the "synthetic digits" of the domain-adaptation literature, with its numbers set so that a network
trained on SVHN read 91 % of a prototype's digits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from celo2.data.images import LabeledSet
from celo2.data.packages import Package, cache, unpacked
from celo2.data.photos import photos

FONTS = tuple(
    Package("debian", name, sha256, terms)
    for name, sha256, terms in (
        (
            "fonts-dejavu-core",
            "8892669e51aab4dc56682c8e39d8ddb7d70fad83c369344e1e240bf3ca22bb76",
            "Bitstream Vera",
        ),
        (
            "fonts-liberation2",
            "35ffaa54f117e633e89a5da89af235a073b34dbe582726fbf6989568f7fd9bda",
            "OFL-1.1",
        ),
        (
            "fonts-lato",
            "86f50af146a7df9eca4e69f0262e73e708908435ebfa833df797adfa08843bc5",
            "OFL-1.1",
        ),
        (
            "fonts-open-sans",
            "ed8c4258af6c23e5105fa18940544f060f3c9664fbe881f25130fe0c65bc1485",
            "Apache-2.0",
        ),
        (
            "fonts-freefont-ttf",
            "4ca1c21ebc479198a3a5879d236c8317d6f7b2f1c403f7890e24c02eead05615",
            "GPL-3 with font exception",
        ),
    )
)
COUNT, CHUNK = 20_000, 1_000
SEED = 0
CLASSES = 10
CANVAS, IMAGE, KEPT = 48, 32, 8
"""Pixels a side: drawn at, reduced to, and kept at."""
TINT = (0.0, 1.5, 9.0)


class Digits(NamedTuple):
    """uint8 images (n, 8, 8, 3) and labels (n,)."""

    images: np.ndarray
    labels: np.ndarray


def street_digits(color: bool = False) -> LabeledSet:
    """20,000 digits, float32 (n, 64), or (n, 192) in color, in [0, 1]; made at the first call and kept in the cache.

    Raises:
        InputError: the type faces cannot be had.
    """
    for _ in make():
        pass
    images = np.concatenate([np.load(path)["images"] for path in _chunks()])
    labels = np.concatenate([np.load(path)["labels"] for path in _chunks()])
    shown = images.astype(np.float32) if color else images.mean(-1, dtype=np.float32)
    return LabeledSet("street digits", shown.reshape(len(images), -1) / 255, labels, CLASSES)


def make() -> Iterator[int]:
    """Make what the cache lacks, yielding the number of digits there so far; goes on after an interruption."""
    missing = [i for i, path in enumerate(_chunks()) if not path.exists()]
    if missing:
        faces, gray = _faces(), photos()
        for i in missing:
            digits = draw(np.random.default_rng((SEED, i)), CHUNK, faces, gray)
            path = _chunks()[i]
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.part.npz")
            np.savez_compressed(temporary, images=digits.images, labels=digits.labels)
            os.replace(temporary, path)
            yield (i + 1) * CHUNK
    yield COUNT


def made() -> bool:
    """Whether the cache holds them all."""
    return all(path.exists() for path in _chunks())


def draw(rng: np.random.Generator, count: int, faces: list[Path], gray: list[np.ndarray]) -> Digits:
    """So many digits, balanced at random over the ten."""
    labels = rng.integers(CLASSES, size=count).astype(np.uint8)
    return Digits(np.stack([_digit(rng, int(label), faces, gray) for label in labels]), labels)


def _chunks() -> list[Path]:
    return [cache() / "street-digits-1" / f"{i:02}.npz" for i in range(COUNT // CHUNK)]


def _faces() -> list[Path]:
    """The upright text faces of the font packages."""
    paths = sorted(path for package in FONTS for path in unpacked(package).rglob("*.ttf"))
    return [
        path
        for path in paths
        if not any(word in path.stem for word in ("Italic", "Oblique", "Thin", "Hairline"))
    ]


def _digit(
    rng: np.random.Generator, label: int, faces: list[Path], gray: list[np.ndarray]
) -> np.ndarray:
    """One image (8, 8, 3) uint8."""
    ground = _ground(rng, gray)
    mask = _warped(rng, _text(rng, label, faces))
    ink = _ink(rng, ground)
    if rng.random() < 0.25:  # a shadow below the digit
        shadow = np.roll(mask, rng.integers(1, 4, 2), (0, 1))[..., None]
        ground = ground * (1 - rng.uniform(0.2, 0.6) * shadow)
    alpha = rng.uniform(0.75, 1.0) * mask[..., None]
    picture = Image.fromarray(np.clip(ground + alpha * (ink - ground), 0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.9))).resize(
        (IMAGE, IMAGE), Image.Resampling.BOX
    )
    noisy = np.asarray(picture, np.float32) + rng.normal(0, rng.uniform(0, 6), (IMAGE, IMAGE, 3))
    # bilinear without antialiasing from 32 to 8 is the mean of the middle two pixels of every four
    small = sum(noisy[i :: IMAGE // KEPT, j :: IMAGE // KEPT] for i in (1, 2) for j in (1, 2)) / 4
    return np.clip(np.round(small), 0, 255).astype(np.uint8)


def _ground(rng: np.random.Generator, gray: list[np.ndarray]) -> np.ndarray:
    """Wall (48, 48, 3): a tinted level, the texture of a photo patch, and a linear shading."""
    level = 255 * rng.beta(2.3, 2.8) + np.array(TINT) + rng.normal(0, 10, 3)
    photo = gray[rng.integers(len(gray))]
    top, left = (rng.integers(length - CANVAS) for length in photo.shape)
    patch = 255 * photo[top : top + CANVAS, left : left + CANVAS]
    slopes = rng.normal(0, 12, 2)
    y, x = np.mgrid[-1 : 1 : CANVAS * 1j, -1 : 1 : CANVAS * 1j]
    texture = rng.uniform(0, 0.55) * (patch - patch.mean()) + slopes[0] * x + slopes[1] * y
    return level + texture[..., None]


def _ink(rng: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    """A color whose mean is at least U(18, 60) away from the wall's, lighter or darker."""
    wall, away = ground.mean(), rng.uniform(18, 60)
    room = np.array([wall - away, 255 - wall - away]).clip(0)
    darker = rng.random() < room[0] / max(room.sum(), 1e-9)
    level = rng.uniform(0, wall - away) if darker else rng.uniform(min(wall + away, 255), 255)
    return np.clip(level + rng.normal(0, 15, 3), 0, 255)


def _text(rng: np.random.Generator, label: int, faces: list[Path]) -> Image.Image:
    """The digit in the middle, and with p = 0.6 on each side a neighbour at a gap of 0.5 to 4 pixels."""
    image = Image.new("L", (CANVAS, CANVAS))
    pen, middle = ImageDraw.Draw(image), CANVAS / 2
    face = ImageFont.truetype(str(faces[rng.integers(len(faces))]), int(rng.integers(30, 53)))
    half = face.getlength(str(label)) / 2
    pen.text((middle, middle), str(label), 255, face, anchor="mm")
    for side, anchor in ((-1, "rm"), (1, "lm")):
        if rng.random() < 0.6:
            pen.text(
                (middle + side * (half + rng.uniform(0.5, 4)), middle),
                str(rng.integers(10)),
                255,
                face,
                anchor=anchor,
            )
    return image


def _warped(rng: np.random.Generator, image: Image.Image) -> np.ndarray:
    """Turned, widened and sheared about the middle; (48, 48) in [0, 1]."""
    turn = np.deg2rad(rng.normal(0, 6))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    inverse = np.linalg.inv(
        rotation @ [[1, rng.normal(0, 0.08)], [0, 1]] @ np.diag([rng.uniform(0.85, 1.2), 1])
    )
    shift = CANVAS / 2 - inverse @ [CANVAS / 2, CANVAS / 2]
    coefficients = (*inverse[0], shift[0], *inverse[1], shift[1])
    turned = image.transform(
        image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    return np.asarray(turned, np.float32) / 255
