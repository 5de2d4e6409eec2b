"""Four sets of 8x8 gray images, ten classes each, made from what scikit-learn, scikit-image and Matplotlib ship: no download.

They are meant to be unlike each other: strokes on nothing, strokes over clutter, texture, and geometry.

- digits: handwritten digits of scikit-learn (UCI), 1,797 images.
- letters: A..J in many type faces, light or dark, over patches of photos. A synthetic stand-in for house-number photos.
- photos: which of ten photos the patch is from.
- edges: the orientation of the dominant edge of a photo patch, in ten bins of 18 degrees.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

from celo2.data.images import LabeledSet
from celo2.data.photos import photos
from celo2.data.resize import SIZE

CLASSES = 10
FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Bold",
         "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic")  # fmt: skip


def offline_sets(seed: int = 0, count: int = 8192) -> list[LabeledSet]:
    """The four sets, in a fixed order; digits has all its images, the others `count` drawn from `seed`. Takes seconds."""
    gray = photos()
    seeds = np.random.SeedSequence(seed).spawn(3)
    makers = (_letters, _photo_identity, _edges)
    drawn = [
        make(np.random.default_rng(s), gray, count) for make, s in zip(makers, seeds, strict=True)
    ]
    return [_digits(), *drawn]


def _digits() -> LabeledSet:
    images, labels = load_digits(return_X_y=True)
    return LabeledSet(
        "digits", np.asarray(images / 16, np.float32), np.asarray(labels, np.int32), CLASSES
    )


def _patches(
    rng: np.random.Generator, gray: list[np.ndarray], count: int, scale: int
) -> tuple[np.ndarray, np.ndarray]:
    """Random patches (count, 8, 8), box-reduced by `scale`, and the index of the photo each is from."""
    which = rng.integers(len(gray), size=count)
    side = SIZE * scale
    out = np.empty((count, SIZE, SIZE), np.float32)
    for i, k in enumerate(which):
        top, left = (rng.integers(length - side) for length in gray[k].shape)
        patch = gray[k][top : top + side, left : left + side]
        out[i] = patch.reshape(SIZE, scale, SIZE, scale).mean((1, 3))
    return out, which.astype(np.int32)


def _photo_identity(rng: np.random.Generator, gray: list[np.ndarray], count: int) -> LabeledSet:
    patches, which = _patches(rng, gray, count, scale=4)
    return LabeledSet("photos", patches.reshape(count, -1), which, CLASSES)


def _edges(rng: np.random.Generator, gray: list[np.ndarray], count: int) -> LabeledSet:
    """Patches whose structure tensor has a clear direction, with contrast stretched so that geometry is all there is."""
    kept_images, kept_labels, total = [], [], 0
    while total < count:
        patches, _ = _patches(rng, gray, count, scale=2)
        dy, dx = np.gradient(patches, axis=(1, 2))
        xx, yy, xy = ((u * v).sum((1, 2)) for u, v in ((dx, dx), (dy, dy), (dx, dy)))
        coherence = np.hypot(xx - yy, 2 * xy) / (xx + yy + 1e-4)
        angle = np.mod(np.arctan2(2 * xy, xx - yy) / 2, np.pi)
        clear = coherence > 0.6
        low, high = (f(patches, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
        kept_images.append(((patches - low) / (high - low + 1e-3))[clear])
        kept_labels.append((angle[clear] / np.pi * CLASSES).astype(np.int32) % CLASSES)
        total += int(clear.sum())
    images = np.concatenate(kept_images)[:count].reshape(count, -1)
    return LabeledSet("edges", images, np.concatenate(kept_labels)[:count], CLASSES)


def _letters(rng: np.random.Generator, gray: list[np.ndarray], count: int) -> LabeledSet:
    """One letter, turned and shifted a little, blended over a patch at a contrast of at least 0.2."""
    canvas = 32
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces = [
        ImageFont.truetype(str(fonts / f"{face}.ttf"), size)
        for face in FACES
        for size in (22, 26, 30)
    ]
    backgrounds, _ = _patches(rng, gray, count, scale=4)
    labels = rng.integers(CLASSES, size=count).astype(np.int32)
    masks = np.empty((count, SIZE, SIZE), np.float32)
    for i, label in enumerate(labels):
        image = Image.new("L", (canvas, canvas))
        where = (canvas / 2 + rng.uniform(-2, 2), canvas / 2 + rng.uniform(-2, 2))
        ImageDraw.Draw(image).text(
            where, chr(ord("A") + int(label)), 255, faces[rng.integers(len(faces))], anchor="mm"
        )
        image = image.rotate(rng.normal(0, 6), Image.Resampling.BILINEAR)
        masks[i] = np.asarray(image, np.float32).reshape(SIZE, 4, SIZE, 4).mean((1, 3)) / 255
    base = 0.5 * backgrounds + rng.uniform(0, 0.5, (count, 1, 1)).astype(np.float32)
    sign = np.where(base.mean((1, 2), keepdims=True) > 0.5, -1, 1)
    ink = base.mean((1, 2), keepdims=True) + sign * rng.uniform(0.2, 0.5, (count, 1, 1))
    images = np.clip(base + masks * (ink - base), 0, 1).astype(np.float32)
    return LabeledSet("letters", images.reshape(count, -1), labels, CLASSES)
