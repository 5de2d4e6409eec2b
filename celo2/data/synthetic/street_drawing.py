"""Draw street digits: a digit and its neighbors in random type faces over a textured wall."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from celo2.data.formats import Images
from celo2.data.synthetic.photos import patch

CANVAS, IMAGE, KEPT = 48, 32, 8
"""Pixels per side: drawn at, reduced to, and kept at."""
TINT = (0.0, 1.5, 9.0)
CLASSES = 10


def draw(rng: np.random.Generator, count: int, faces: list[Path], gray: list[np.ndarray]) -> Images:
    """Draw `count` digits (count, 8, 8, 3), their labels uniform over the ten."""
    labels = rng.integers(CLASSES, size=count).astype(np.uint8)
    return Images(np.stack([_digit(rng, int(label), faces, gray) for label in labels]), labels)


def _digit(
    rng: np.random.Generator, label: int, faces: list[Path], gray: list[np.ndarray]
) -> np.ndarray:
    """Draw one image (8, 8, 3) uint8."""
    ground = _ground(rng, gray)
    mask = _warped(rng, _text(rng, label, faces))
    ink = _ink(rng, ground)
    if rng.random() < 0.25:  # a shadow below the digit
        shadow = np.roll(mask, rng.integers(1, 4, 2), (0, 1))[..., None]
        ground = ground * (1 - rng.uniform(0.2, 0.6) * shadow)
    alpha = rng.uniform(0.75, 1.0) * mask[..., None]
    picture = Image.fromarray(np.clip(ground + alpha * (ink - ground), 0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.9)))
    picture = picture.resize((IMAGE, IMAGE), Image.Resampling.BOX)
    noisy = np.asarray(picture, np.float32) + rng.normal(0, rng.uniform(0, 6), (IMAGE, IMAGE, 3))
    return np.clip(np.round(_middle_mean(noisy)), 0, 255).astype(np.uint8)


def _middle_mean(image: np.ndarray) -> np.ndarray:
    """Average the middle 2x2 pixels of every 4x4: bilinear from 32 to 8 without antialiasing."""
    every = IMAGE // KEPT
    parts = [image[i::every, j::every] for i, j in itertools.product((1, 2), (1, 2))]
    return sum(parts) / len(parts)  # type: ignore[return-value]


def _ground(rng: np.random.Generator, gray: list[np.ndarray]) -> np.ndarray:
    """Make a wall (48, 48, 3): a tinted level, the texture of a photo, and a linear shading."""
    level = 255 * rng.beta(2.3, 2.8) + np.array(TINT) + rng.normal(0, 10, 3)
    photo = 255 * patch(gray[rng.integers(len(gray))], rng, CANVAS)
    slopes = rng.normal(0, 12, 2)
    y, x = np.mgrid[-1 : 1 : CANVAS * 1j, -1 : 1 : CANVAS * 1j]
    texture = rng.uniform(0, 0.55) * (photo - photo.mean()) + slopes[0] * x + slopes[1] * y
    return level + texture[..., None]


def _ink(rng: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    """Draw a color whose mean is at least U(18, 60) away from the wall's, lighter or darker."""
    wall, away = ground.mean(), rng.uniform(18, 60)
    room = np.array([wall - away, 255 - wall - away]).clip(0)
    darker = rng.random() < room[0] / max(room.sum(), 1e-9)
    level = rng.uniform(0, wall - away) if darker else rng.uniform(min(wall + away, 255), 255)
    return np.clip(level + rng.normal(0, 15, 3), 0, 255)


def _text(rng: np.random.Generator, label: int, faces: list[Path]) -> Image.Image:
    """Write the digit in the middle; with p = 0.6 on each side a neighbor 0.5 to 4 pixels away."""
    image = Image.new("L", (CANVAS, CANVAS))
    pen, middle = ImageDraw.Draw(image), CANVAS / 2
    face = ImageFont.truetype(str(faces[rng.integers(len(faces))]), int(rng.integers(30, 53)))
    half = face.getlength(str(label)) / 2
    pen.text((middle, middle), str(label), 255, face, anchor="mm")
    for side, anchor in ((-1, "rm"), (1, "lm")):
        if rng.random() < 0.6:
            x = middle + side * (half + rng.uniform(0.5, 4))
            pen.text((x, middle), str(rng.integers(10)), 255, face, anchor=anchor)
    return image


def _warped(rng: np.random.Generator, image: Image.Image) -> np.ndarray:
    """Rotate, widen and shear about the middle; returns (48, 48) in [0, 1]."""
    angle = np.deg2rad(rng.normal(0, 6))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = [[1, rng.normal(0, 0.08)], [0, 1]]
    inverse = np.linalg.inv(rotation @ shear @ np.diag([rng.uniform(0.85, 1.2), 1]))
    shift = CANVAS / 2 - inverse @ [CANVAS / 2, CANVAS / 2]
    coefficients = (*inverse[0], shift[0], *inverse[1], shift[1])
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    warped = image.transform(image.size, affine, coefficients, bilinear)
    return np.asarray(warped, np.float32) / 255
