"""Four sets of 8x8 gray images in ten classes each that need no download.

They are made from what scikit-learn, scikit-image and Matplotlib ship, and are meant to be unlike
each other: strokes on nothing, strokes over clutter, texture, and geometry.

- digits: handwritten digits of scikit-learn (UCI), 1,797 images.
- letters: A to J in many type faces, light or dark, over patches of photos.
- photos: which of ten photos the patch is from.
- edges: the orientation of the dominant edge of a photo patch, in ten bins of 18 degrees.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from celo2.data.images import LabeledSet
from celo2.data.resize import SIZE
from celo2.data.synthetic.photos import patch, photos

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

CLASSES = 10
CANVAS = 32
"""Pixels per side that a letter is drawn at."""
FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
)


def offline_sets(seed: int = 0, count: int = 8192) -> list[LabeledSet]:
    """Make the four sets, in a fixed order; this takes seconds.

    Digits has all its images; the others have `count`, drawn from `seed`.
    """
    gray = photos()
    sets = [_digits()]
    seeds = np.random.SeedSequence(seed).spawn(3)
    for make, of_set in zip((_letters, _photo_identity, _edges), seeds, strict=True):
        sets.append(make(np.random.default_rng(of_set), gray, count))
    return sets


def _digits() -> LabeledSet:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images, labels = np.asarray(images / 16, np.float32), np.asarray(labels, np.int32)
    return LabeledSet("digits", images, labels, CLASSES)


def _patches(
    rng: np.random.Generator, gray: list[np.ndarray], count: int, scale: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut random patches (count, 8, 8), reduced by `scale`, and the index of the photo of each."""
    which = rng.integers(len(gray), size=count)
    out = np.empty((count, SIZE, SIZE), np.float32)
    for i, k in enumerate(which):
        large = patch(gray[k], rng, SIZE * scale)
        out[i] = large.reshape(SIZE, scale, SIZE, scale).mean((1, 3))
    return out, which.astype(np.int32)


def _photo_identity(rng: np.random.Generator, gray: list[np.ndarray], count: int) -> LabeledSet:
    patches, which = _patches(rng, gray, count, scale=4)
    return LabeledSet("photos", patches.reshape(count, -1), which, CLASSES)


def _edges(rng: np.random.Generator, gray: list[np.ndarray], count: int) -> LabeledSet:
    """Keep patches whose structure tensor has a clear direction, at full contrast."""
    kept_images, kept_labels, total = [], [], 0
    while total < count:
        patches, _ = _patches(rng, gray, count, scale=2)
        angle, clear = _orientation(patches)
        low = patches.min((1, 2), keepdims=True)
        high = patches.max((1, 2), keepdims=True)
        kept_images.append(((patches - low) / (high - low + 1e-3))[clear])
        kept_labels.append((angle[clear] / np.pi * CLASSES).astype(np.int32) % CLASSES)
        total += int(clear.sum())
    images = np.concatenate(kept_images)[:count].reshape(count, -1)
    return LabeledSet("edges", images, np.concatenate(kept_labels)[:count], CLASSES)


def _orientation(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the angle of each patch's main gradient, in [0, pi), and whether it is clear."""
    dy, dx = np.gradient(patches, axis=(1, 2))
    xx, yy, xy = ((u * v).sum((1, 2)) for u, v in ((dx, dx), (dy, dy), (dx, dy)))
    coherence = np.hypot(xx - yy, 2 * xy) / (xx + yy + 1e-4)
    return np.mod(np.arctan2(2 * xy, xx - yy) / 2, np.pi), coherence > 0.6


def _letters(rng: np.random.Generator, gray: list[np.ndarray], count: int) -> LabeledSet:
    """Blend a letter, rotated and shifted a little, over a patch at a contrast of 0.2 or more."""
    faces = _faces()
    backgrounds, _ = _patches(rng, gray, count, scale=4)
    labels = rng.integers(CLASSES, size=count).astype(np.int32)
    masks = np.empty((count, SIZE, SIZE), np.float32)
    for i, label in enumerate(labels):
        masks[i] = _letter(rng, int(label), faces)
    base = 0.5 * backgrounds + rng.uniform(0, 0.5, (count, 1, 1)).astype(np.float32)
    mean = base.mean((1, 2), keepdims=True)
    sign = np.where(mean > 0.5, -1, 1)
    ink = mean + sign * rng.uniform(0.2, 0.5, (count, 1, 1))
    images = np.clip(base + masks * (ink - base), 0, 1).astype(np.float32)
    return LabeledSet("letters", images.reshape(count, -1), labels, CLASSES)


def _faces() -> list[FreeTypeFont]:
    import matplotlib
    from PIL import ImageFont

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces = []
    for face in FACES:
        faces += [ImageFont.truetype(str(fonts / f"{face}.ttf"), size) for size in (22, 26, 30)]
    return faces


def _letter(rng: np.random.Generator, label: int, faces: list[FreeTypeFont]) -> np.ndarray:
    """Draw the mask (8, 8) of one letter, in [0, 1]."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (CANVAS, CANVAS))
    where = (CANVAS / 2 + rng.uniform(-2, 2), CANVAS / 2 + rng.uniform(-2, 2))
    face = faces[rng.integers(len(faces))]
    ImageDraw.Draw(image).text(where, chr(ord("A") + label), 255, face, anchor="mm")
    image = image.rotate(rng.normal(0, 6), Image.Resampling.BILINEAR)
    scale = CANVAS // SIZE
    return np.asarray(image, np.float32).reshape(SIZE, scale, SIZE, scale).mean((1, 3)) / 255
