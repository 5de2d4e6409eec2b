"""Street digits: a synthetic stand-in for photographs of house numbers.

They are NOT SVHN, which no package registry carries; `celo2.data.images.load("svhn")` reads that.
Digits in many type faces are drawn over patches of photos, by the recipe of the "synthetic digits"
of the literature on domain adaptation, with its numbers set so that a network trained on SVHN read
91 % of a prototype's digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from celo2 import files
from celo2.data.cache import cache
from celo2.data.formats import Images
from celo2.data.images import LabeledSet
from celo2.data.packages import Package, unpacked
from celo2.data.resize import SIZE
from celo2.data.synthetic.photos import photos
from celo2.data.synthetic.street_drawing import draw
from celo2.errors import InputError

FONTS = (
    # Bitstream Vera license
    Package(
        "debian",
        "fonts-dejavu-core",
        "8892669e51aab4dc56682c8e39d8ddb7d70fad83c369344e1e240bf3ca22bb76",
    ),
    # OFL-1.1
    Package(
        "debian",
        "fonts-liberation2",
        "35ffaa54f117e633e89a5da89af235a073b34dbe582726fbf6989568f7fd9bda",
    ),
    # OFL-1.1
    Package(
        "debian",
        "fonts-lato",
        "86f50af146a7df9eca4e69f0262e73e708908435ebfa833df797adfa08843bc5",
    ),
    # Apache-2.0
    Package(
        "debian",
        "fonts-open-sans",
        "ed8c4258af6c23e5105fa18940544f060f3c9664fbe881f25130fe0c65bc1485",
    ),
    # GPL-3 with font exception
    Package(
        "debian",
        "fonts-freefont-ttf",
        "4ca1c21ebc479198a3a5879d236c8317d6f7b2f1c403f7890e24c02eead05615",
    ),
)
SLANTED_OR_THIN = ("Italic", "Oblique", "Thin", "Hairline")
COUNT, CHUNK = 20_000, 1_000
"""Digits, and digits per file."""
SEED = 0
CLASSES = 10


def street_digits(color: bool = False) -> LabeledSet:
    """Return 20,000 digits, float32 (n, 64), or (n, 192) in color, in [0, 1].

    They are made at the first call and kept in the cache.

    Raises:
        InputError: the type faces cannot be had, or a file in the cache is damaged.
    """
    for _ in make():
        pass
    chunks = [_read(path) for path in _chunks()]
    images = np.concatenate([chunk.images for chunk in chunks])
    labels = np.concatenate([chunk.labels for chunk in chunks])
    shown = images.astype(np.float32) if color else images.mean(-1, dtype=np.float32)
    return LabeledSet("street digits", shown.reshape(len(images), -1) / 255, labels, CLASSES)


def make() -> Iterator[int]:
    """Make what the cache lacks, yielding the number of digits so far; an interrupted run resumes.

    Raises:
        InputError: the type faces cannot be had.
    """
    missing = [i for i, path in enumerate(_chunks()) if not path.exists()]
    if missing:
        faces, gray = _faces(), photos()
        for i in missing:
            digits = draw(np.random.default_rng((SEED, i)), CHUNK, faces, gray)
            files.write_arrays(_chunks()[i], digits._asdict())
            yield (i + 1) * CHUNK
    yield COUNT


def made() -> bool:
    """Return whether the cache holds all digits.

    Raises:
        InputError: a file in the cache is damaged.
    """
    existing = [path for path in _chunks() if path.exists()]
    for path in existing:
        _read(path)
    return len(existing) == len(_chunks())


def _chunks() -> list[Path]:
    folder = cache() / "street-digits-1"
    return [folder / f"{i:02}.npz" for i in range(COUNT // CHUNK)]


def _read(path: Path) -> Images:
    """Read one file of the cache."""
    remedy = "delete it, then run `celo2 data get street-digits`"
    arrays = files.read_arrays(path, remedy)
    shapes = {name: array.shape for name, array in arrays.items()}
    expected = {"images": (CHUNK, SIZE, SIZE, 3), "labels": (CHUNK,)}
    if shapes != expected or arrays["labels"].max() >= CLASSES:
        raise InputError(f"{path} holds something else than {CHUNK} digits; {remedy}")
    return Images(**arrays)


def _faces() -> list[Path]:
    """Return the upright text faces of the font packages."""
    faces = []
    for package in FONTS:
        faces += unpacked(package).rglob("*.ttf")
    return [path for path in sorted(faces) if not any(w in path.stem for w in SLANTED_OR_THIN)]
