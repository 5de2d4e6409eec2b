"""The validation problems: fixed before any theta was searched for, and never meta-trained on. Thetas are chosen by them.

None of them is a problem of a benchmark; those have to stay unseen.
"""

from __future__ import annotations

import dataclasses

from celo2.errors import InputError
from celo2.tasks.base import TaskFamily
from celo2.tasks.registry import full_family


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network to train for a number of steps."""

    name: str
    family: TaskFamily
    steps: int


VALIDATION = {
    "byte-transformer": 400,
    "cifar10-conv": 400,
    "fashion-mlp": 400,
    "mnist-autoencoder": 400,
    "byte-lstm": 400,
}
"""Name in `celo2.tasks.registry`, and steps."""


def problem(name: str, longer: int = 1) -> Problem:
    """A validation problem by name, at `longer` times its steps.

    Raises:
        InputError: unknown name, or data that cannot be had.
    """
    if name not in VALIDATION:
        raise InputError(f"unknown problem {name!r}: take some of {', '.join(VALIDATION)}")
    return Problem(name, full_family(name), longer * VALIDATION[name])
