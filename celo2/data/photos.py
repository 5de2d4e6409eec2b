"""Photos that ship inside scikit-image and scikit-learn, in gray."""

from __future__ import annotations

import numpy as np
import skimage.data
from sklearn.datasets import load_sample_image

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
    """Ten photos (height, width) float32 in [0, 1]."""
    color = [getattr(skimage.data, name)() for name in PHOTOS] + [load_sample_image("china.jpg")]
    gray = (photo if photo.ndim == 2 else photo[..., :3].mean(-1) for photo in color)
    return [np.asarray(photo, np.float32) / 255 for photo in gray]
