"""The problems that optimizers are compared on, as data: one entry per problem.

VALIDATION was fixed before any theta was searched for, and no theta is meta-trained on it, but
thetas are chosen by it: it is the selection set. No problem of it may be in a benchmark, whose
problems have to stay unseen.
"""

from __future__ import annotations

import dataclasses

from celo2.errors import InputError
from celo2.tasks.base import TaskFamily
from celo2.tasks.registry import full_family

TUNING_SEED = 0
"""Settings are chosen on this seed, and reported on others."""
REPORTED_SEEDS = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network to train for a number of steps."""

    name: str
    family: TaskFamily
    steps: int


@dataclasses.dataclass(frozen=True)
class Entry:
    """A problem of a suite; its family is that of its name in `celo2.tasks.registry`."""

    title: str
    steps: int
    adamw_lr_multiplier: float
    """Tuned Muon's in records/validation, at which thetas are screened."""


VALIDATION = {
    "byte-transformer": Entry("byte transformer", 400, 20.0),
    "cifar10-conv": Entry("CIFAR-10 conv net", 400, 5.0),
    "fashion-mlp": Entry("Fashion-MNIST MLP", 400, 5.0),
    "mnist-autoencoder": Entry("MNIST autoencoder", 400, 20.0),
    "byte-lstm": Entry("byte LSTM", 400, 5.0),
}


def check_problem(name: str) -> None:
    """Raise InputError unless the suite has a problem of this name."""
    if name not in VALIDATION:
        raise InputError(f"unknown problem {name!r}: take some of {', '.join(VALIDATION)}")


def problem(name: str, longer: int = 1) -> Problem:
    """Return a problem by name, at `longer` times its steps.

    Raises:
        InputError: unknown name, or data that cannot be had.
    """
    check_problem(name)
    return Problem(name, full_family(name), longer * VALIDATION[name].steps)
