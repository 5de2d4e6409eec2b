"""Tables as arrays: the prices of diamonds."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celo2.data.packages import Package, unpacked
from celo2.errors import InputError

DIAMONDS = Package(
    "pypi",
    "plotnine==0.15.9",
    "36f4526235b3ddd9ea379dd677093ea2ee1b58ab98adec1bde891930283448cd",
)
"""The set that ggplot2 made known: 53,940 diamonds with their prices."""
NUMBERS = ("carat", "depth", "table", "x", "y", "z")
CATEGORIES = ("cut", "color", "clarity")
TARGET = "price"
HELD_OUT = 10
"""Every tenth row of the shuffled table is held out."""


class Part(NamedTuple):
    """Rows of a table."""

    features: np.ndarray
    """(n, features) float32: numbers of mean 0 and deviation 1, and categories as 0 and 1."""
    target: np.ndarray
    """(n,) float32, of mean 0 and deviation 1."""


def diamonds() -> tuple[Part, Part]:
    """Return the rows to train on and the rows held out; the target is the logarithm of the price.

    Raises:
        InputError: the package cannot be had.
    """
    return read(unpacked(DIAMONDS) / "plotnine" / "data" / "diamonds.csv")


def read(path: Path) -> tuple[Part, Part]:
    """Read a table of diamonds; means and deviations are those of the rows to train on.

    Raises:
        InputError: the file lacks a column.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        numbers = np.array([[float(row[name]) for name in NUMBERS] for row in rows])
        names = np.array([[row[name] for name in CATEGORIES] for row in rows])
        price = np.log([float(row[TARGET]) for row in rows])
    except KeyError as error:
        raise InputError(f"{path} has no column {error}; give the table of diamonds") from None
    order = np.random.default_rng(0).permutation(len(rows))
    is_train = order % HELD_OUT > 0
    indicators = [column[:, None] == np.unique(column) for column in names.T]
    features = np.concatenate([_standardized(numbers, is_train), *indicators], 1, dtype=np.float32)
    target = _standardized(price, is_train).astype(np.float32)
    train, held_out = (Part(features[part], target[part]) for part in (is_train, ~is_train))
    return train, held_out


def _standardized(values: np.ndarray, is_train: np.ndarray) -> np.ndarray:
    mean, deviation = values[is_train].mean(0), values[is_train].std(0)
    return (values - mean) / deviation
