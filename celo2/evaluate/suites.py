"""The problems that optimizers are compared on, as data: one entry per problem.

VALIDATION was fixed before any theta was searched for, and no theta is meta-trained on it, but
thetas are chosen by it: it is the selection set. BENCHMARK is what is reported: no theta, setting
or default is chosen by it, and none of its networks is one of validation's or meta-training's.
RL is reported by the returns of agents.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Literal

from celo2.errors import InputError
from celo2.tasks.base import TaskFamily
from celo2.tasks.ladder import RUNGS
from celo2.tasks.registry import full_family

TUNING_SEED = 0
"""Settings are chosen on this seed, and reported on others."""
REPORTED_SEEDS = (1, 2, 3)
HELD_OUT_BATCHES = 32
"""Evaluated after a run of a problem that states no other number."""

Domain = Literal["vision", "language", "generative", "tabular", "scientific", "fine-tuning"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network to train for a number of steps."""

    name: str
    load: Callable[[], TaskFamily]
    steps: int
    held_out_batches: int = HELD_OUT_BATCHES
    """Drawn alike for every run."""

    @property
    def family(self) -> TaskFamily:
        """The network with its data.

        Raises:
            InputError: data that cannot be had.
        """
        return self.load()


@dataclasses.dataclass(frozen=True)
class Entry:
    """A problem of a suite; its family is that of its name in `celo2.tasks.registry`."""

    title: str
    steps: int
    held_out_batches: int = dataclasses.field(default=HELD_OUT_BATCHES, kw_only=True)
    """More where their losses vary much, so that a difference of 1 % is not one of the sample."""


@dataclasses.dataclass(frozen=True)
class ValidationEntry(Entry):
    """A problem that thetas are chosen by."""

    adamw_lr_multiplier: float
    """Tuned Muon's in records/validation, at which thetas are screened."""


@dataclasses.dataclass(frozen=True)
class BenchmarkEntry(Entry):
    """A problem that optimizers are reported on."""

    domain: Domain
    stands_for: str
    """What someone trains who finds their own work in this problem, in one sentence."""
    data_seen_in: tuple[str, ...] = ()
    """Where its data set recurs, with another network: "meta-training", "validation"."""
    quick: bool = False
    """Whether it is among the few cheap ones, of different domains, for a first impression."""


@dataclasses.dataclass(frozen=True)
class RLEntry(Entry):
    """A game that an agent learns by PPO from 1e6 environment steps.

    `longer=10` makes them the 1e7 of the paper.
    """

    adam_learning_rate: float
    """That of purejaxrl."""


VALIDATION: dict[str, ValidationEntry] = {
    "byte-transformer": ValidationEntry("byte transformer", 400, 20.0),
    "cifar10-conv": ValidationEntry("CIFAR-10 conv net", 400, 5.0),
    "fashion-mlp": ValidationEntry("Fashion-MNIST MLP", 400, 5.0),
    "mnist-autoencoder": ValidationEntry("MNIST autoencoder", 400, 20.0),
    "byte-lstm": ValidationEntry("byte LSTM", 400, 5.0),
}

SEEN = ("meta-training", "validation")
"""Fashion-MNIST and CIFAR-10: the published tasks show them at 8x8 pixels, validation in full."""

BENCHMARK: dict[str, BenchmarkEntry] = {
    "cifar10-resnet": BenchmarkEntry(
        "CIFAR-10 ResNet",
        300,
        "vision",
        "A residual convolutional network with GroupNorm, trained with augmentation.",
        SEEN,
        held_out_batches=128,
    ),
    "cifar10-vit": BenchmarkEntry(
        "CIFAR-10 ViT",
        300,
        "vision",
        "A vision transformer trained from scratch with augmentation.",
        SEEN,
        held_out_batches=128,
    ),
    "fashion-mixer": BenchmarkEntry(
        "Fashion-MNIST Mixer",
        300,
        "vision",
        "An all-MLP image classifier that mixes tiles and channels.",
        SEEN,
        quick=True,
        held_out_batches=128,
    ),
    "speech-gpt": BenchmarkEntry(
        "State of the Union GPT",
        300,
        "language",
        "A decoder-only transformer language model on BPE tokens, its head tied to its embedding.",
    ),
    "speech-moe": BenchmarkEntry(
        "State of the Union MoE",
        300,
        "language",
        "A mixture-of-experts language model with rotary positions and SwiGLU.",
    ),
    "speech-gru": BenchmarkEntry(
        "State of the Union GRU",
        300,
        "language",
        "A recurrent language model on bytes.",
        quick=True,
    ),
    "fashion-vae": BenchmarkEntry(
        "Fashion-MNIST VAE",
        500,
        "generative",
        "A variational autoencoder, trained on the evidence lower bound.",
        SEEN,
        quick=True,
    ),
    "fashion-diffusion": BenchmarkEntry(
        "Fashion-MNIST diffusion",
        300,
        "generative",
        "A denoising diffusion model with a small U-Net.",
        SEEN,
    ),
    "diamonds-resnet": BenchmarkEntry(
        "diamonds",
        500,
        "tabular",
        "A regression on a table of numbers and categories: the price of a diamond.",
        quick=True,
    ),
    "photo-siren": BenchmarkEntry(
        "photograph (SIREN)",
        500,
        "scientific",
        "A neural field: coordinates in, the color of a photograph out.",
    ),
    "burgers-pinn": BenchmarkEntry(
        "Burgers' equation",
        500,
        "scientific",
        "A physics-informed network, whose loss has derivatives of the network in it.",
        quick=True,
        held_out_batches=128,
    ),
    "in-context-regression": BenchmarkEntry(
        "in-context regression",
        500,
        "scientific",
        "A transformer that learns to fit linear functions from the examples in its prompt.",
        held_out_batches=128,
    ),
    "cifar10-fine-tuning": BenchmarkEntry(
        "CIFAR-10 fine-tuning",
        200,
        "fine-tuning",
        "A pretrained network with BatchNorm that learns new classes from few examples.",
        SEEN,
        held_out_batches=128,
    ),
}

RL: dict[str, RLEntry] = {
    "cartpole": RLEntry("CartPole", 31_248, 2.5e-4),
    "asterix": RLEntry("MinAtar Asterix", 3_904, 5e-3),
    "breakout": RLEntry("MinAtar Breakout", 3_904, 5e-3),
    "freeway": RLEntry("MinAtar Freeway", 3_904, 5e-3),
    "space-invaders": RLEntry("MinAtar Space Invaders", 3_904, 5e-3),
}

LADDER: dict[str, Entry] = {
    name: Entry(f"GPT, {rung.parameters:,} parameters", rung.steps) for name, rung in RUNGS.items()
}
"""In ascending order: settings are tuned on the first, and the others run at them."""

SUITES: Mapping[str, Entry] = {**VALIDATION, **BENCHMARK, **LADDER, **RL}
"""All problems by name."""


def problem(name: str, longer: int = 1, suite: Mapping[str, Entry] = SUITES) -> Problem:
    """Return a problem of a suite by name, at `longer` times its steps.

    Raises:
        InputError: unknown name, or `longer` is below 1.
    """
    if name not in suite:
        raise InputError(f"unknown problem {name!r}: take some of {', '.join(suite)}")
    if longer < 1:
        raise InputError(f"longer is {longer}; give at least 1")
    entry = suite[name]
    load = functools.partial(_loaded, name)
    return Problem(name, load, longer * entry.steps, entry.held_out_batches)


@functools.lru_cache(maxsize=1)
def _loaded(name: str) -> TaskFamily:
    """Keep the data of one problem in memory: those that the runs after each other need."""
    return full_family(name)
