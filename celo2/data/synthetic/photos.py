"""Photos that ship inside scikit-image and scikit-learn, in gray."""

from __future__ import annotations

import numpy as np

PHOTOS = (
    "astronaut",
    "brick",
    "camera",
    "cat",
    "coffee",
    "grass",
    "gravel",
    "immunohistochemistry",
    "retina",
)
"""Of scikit-image, all inside its wheel; scikit-learn's photo of a Chinese temple is the tenth."""


def photos() -> list[np.ndarray]:
    """Return ten photos (height, width), float32 in [0, 1]."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    color = [getattr(skimage.data, name)() for name in PHOTOS]
    color.append(load_sample_image("china.jpg"))
    gray = [photo if photo.ndim == 2 else photo[..., :3].mean(-1) for photo in color]
    return [np.asarray(photo, np.float32) / 255 for photo in gray]


def patch(photo: np.ndarray, rng: np.random.Generator, side: int) -> np.ndarray:
    """Cut a random square of `side` pixels from a photo."""
    top, left = (rng.integers(length - side) for length in photo.shape)
    return photo[top : top + side, left : left + side]
