"""Reduce images to the 8x8 pixels of meta-training, as the authors' implementation does."""

from __future__ import annotations

import numpy as np

SIZE = 8


def resize(images: np.ndarray, color: bool = False) -> np.ndarray:
    """Reduce uint8 images (n, height, width, channels) to flat float32 rows in [0, 1].

    Images are divided by 255 and interpolated bilinearly without antialiasing; then the mean of
    the channels is taken. The result is (n, 64), or (n, 192) in color.
    """
    _, height, width, channels = images.shape
    rows, columns, scaled = _bilinear(height), _bilinear(width), images.astype(np.float32) / 255
    small = np.einsum("ih,nhwc,jw->nijc", rows, scaled, columns, optimize=True)
    small = np.repeat(small, 3 // channels, -1) if color else small.mean(-1)
    return small.reshape(len(images), -1)


def _bilinear(length: int) -> np.ndarray:
    """Make the matrix (8, length) that interpolates between the two pixels nearest to a sample.

    Samples and pixels have their centers at half-integer coordinates.
    """
    at = np.clip((np.arange(SIZE) + 0.5) * length / SIZE - 0.5, 0, length - 1)
    low = np.floor(at).astype(int)
    matrix = np.zeros((SIZE, length), np.float32)
    matrix[np.arange(SIZE), low] += 1 - (at - low)
    matrix[np.arange(SIZE), np.minimum(low + 1, length - 1)] += at - low
    return matrix
