"""The policy: the learning rates of a run by its length, which `total_steps=` stands for.

Its numbers travel in the theta file. Functions take the array namespace `xp` (`numpy` or
`jax.numpy`), so that both front ends follow one schedule and evolution can trace the numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from celo2.errors import InputError
from celo2.parameters.routing import HIDDEN, KINDS
from celo2.parameters.views import MatrixView

REFERENCE_STEPS = 1000
"""Length of the run for which a policy states its learning rates."""
SHORTEST_STEPS = 400
"""Shorter runs have the peaks of this one: the power laws of longer runs grow too large there."""


class PowerLaw(NamedTuple):
    """A learning rate that depends on the number of steps: a (max(T, 400) / 1000)^b."""

    at_1000: Any
    exponent: Any

    def at(self, xp: Any, total_steps: Any) -> Any:
        """Return the value for a run of `total_steps`."""
        length = xp.maximum(total_steps, SHORTEST_STEPS) / REFERENCE_STEPS
        return self.at_1000 * length**self.exponent


class Policy(NamedTuple):
    """How large updates are over a run; numbers may be traced."""

    hidden: PowerLaw
    """Peak learning rate of hidden matrices: the RMS of their update."""
    embedding: PowerLaw
    """Peak learning rate of AdamW on embeddings."""
    head: PowerLaw
    """Peak learning rate of AdamW on the output head, and on other matrices assigned to AdamW."""
    vector: PowerLaw
    """Peak learning rate of AdamW on biases, norms and other vectors."""
    warmup: Any
    """Fraction of the run spent in linear warm-up."""
    final: Any
    """Learning rate at the end of the run over its peak."""
    linear: Any
    """Shape of the decay, from 0, a cosine, to 1, a straight line."""
    weight_decay: Any
    """Decoupled, at the learning rate of hidden matrices."""
    cautious: Any
    """Part of the weight decay that is left out where the update moves a weight away from zero:
    from 0, plain decay, to 1 (Chen et al., Cautious Weight Decay, arXiv 2510.12402)."""
    small_weights: Any
    """Median of `matrix_size` below which all learning rates are multiplied by it."""
    reference_width: Any
    """Median width of hidden matrices, their shorter side, above which their learning rate falls by
    its root."""

    def peak(self, xp: Any, kind: str, total_steps: Any) -> Any:
        """Return the peak learning rate of a kind of parameter in a run of `total_steps`."""
        return getattr(self, kind).at(xp, total_steps)

    def multipliers(self, xp: Any, total_steps: Any) -> dict[str, Any]:
        """Return the learning rate of each kind of parameter over that of hidden matrices."""
        base = self.peak(xp, HIDDEN, total_steps)
        return {kind: self.peak(xp, kind, total_steps) / base for kind in KINDS}

    def factor(self, xp: Any, step: Any, total_steps: Any) -> Any:
        """Return the learning rate of a step, from 0 on, over its peak.

        The schedule is taken in the middle of the step, so that the first is not at zero. Steps
        past the end have the learning rate of the last one.
        """
        progress = (xp.minimum(step, total_steps - 1) + 0.5) / total_steps
        warm = xp.minimum(1.0, progress / xp.maximum(self.warmup, 1e-6))
        done = xp.clip((progress - self.warmup) / (1 - self.warmup), 0.0, 1.0)
        cosine = 0.5 * (1 + xp.cos(xp.pi * done))
        decay = self.linear * (1 - done) + (1 - self.linear) * cosine
        return warm * (self.final + (1 - self.final) * decay)

    def weight_factor(self, xp: Any, sizes: Any) -> Any:
        """Return the factor on all learning rates of a model, 1 unless its weights are small.

        Weights far below 1/sqrt(fan_in) mean that the network multiplies them itself, as the
        neural fields of sines do; updates have to be smaller by the same factor.

        `sizes` (n,) are the `matrix_size` of each hidden parameter before training; zeros, as a
        residual branch may start from, tell nothing.
        """
        known = (sizes > 0).sum()
        median = xp.sort(xp.where(sizes > 0, sizes, xp.inf))[(known - 1) // 2]
        return xp.where((known > 0) & (median < self.small_weights), median, 1.0)

    def width_factor(self, xp: Any, widths: Any) -> Any:
        """Return the factor on the learning rate of hidden matrices, 1 unless a model is wide.

        An orthogonal update of RMS 1 has a spectral norm of the root of its longer side, so at
        one learning rate wider matrices change what they compute by more (Yang, Simon, Bernstein:
        A Spectral Condition for Feature Learning, arXiv 2310.17813).

        `widths` (n,) are the shorter sides of the hidden matrices.
        """
        median = xp.sort(widths)[(len(widths) - 1) // 2]
        return xp.minimum(1.0, xp.sqrt(self.reference_width / median))

    def numbers(self) -> dict[str, Any]:
        """Return the numbers by name: flat, as files, records and evolution have them."""
        laws = {}
        for kind in KINDS:
            law = getattr(self, kind)
            laws |= {f"{kind}.at_1000": law.at_1000, f"{kind}.exponent": law.exponent}
        return laws | {name: getattr(self, name) for name in SHAPE}

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> Policy:
        """Return the policy of `numbers`, which may be traced and are not checked."""
        laws = {}
        for kind in KINDS:
            laws[kind] = PowerLaw(numbers[f"{kind}.at_1000"], numbers[f"{kind}.exponent"])
        return cls(**laws, **{name: numbers[name] for name in SHAPE})

    def to_json(self) -> str:
        """Return the numbers as JSON, as the theta file holds them."""
        return json.dumps(self.numbers())

    @classmethod
    def from_json(cls, text: str) -> Policy:
        """Return the policy of `to_json`.

        Raises:
            InputError: it is not JSON, or a number is absent, unknown or out of range.
        """
        try:
            numbers = BEFORE | json.loads(text)
            policy = cls.of({name: float(value) for name, value in numbers.items()})
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise InputError(
                f"the policy {text[:200]} is damaged ({error!r}); pass a file written by Theta.save"
            ) from error
        for name, value in policy.numbers().items():
            low, high = RANGES[name.rpartition(".")[2]]
            if not low <= value <= high:
                raise InputError(
                    f"{name} of the policy is {value}; it must lie between {low:g} and {high:g}"
                )
        return policy


SHAPE = (
    "warmup",
    "final",
    "linear",
    "weight_decay",
    "cautious",
    "small_weights",
    "reference_width",
)
"""The numbers that all kinds of parameters share."""
RANGES = {
    "at_1000": (1e-8, 1.0),
    "exponent": (-2.0, 2.0),
    "warmup": (0.0, 0.9),
    "final": (0.0, 1.0),
    "linear": (0.0, 1.0),
    "weight_decay": (0.0, 100.0),
    "cautious": (0.0, 1.0),
    "small_weights": (0.0, 1.0),
    "reference_width": (1.0, 1e9),
}

BEFORE = {"reference_width": RANGES["reference_width"][1], "cautious": 0.0}
"""What files of policies did before they stated these numbers: no law for width, plain decay."""


def matrix_size(xp: Any, mean_square: Any, view: MatrixView) -> Any:
    """Return the RMS of the weights times the root of the longer side of their matrix.

    It is about 1 at the usual initializations; 0.58 of a square `torch.nn.Linear`.
    """
    return xp.sqrt(mean_square * math.prod(view.long_lengths))


def matrix_width(view: MatrixView) -> int:
    """Return the shorter side of a matrix: of fused and of separate projections, the model's."""
    return math.prod(view.short_lengths)


def check_total_steps(total_steps: Any) -> int:
    """Return the number of steps of a run as an int.

    Raises:
        InputError: it is not a whole number above 0.
    """
    whole = isinstance(total_steps, int | np.integer) and not isinstance(total_steps, bool)
    if not whole or total_steps < 1:
        raise InputError(
            f"total_steps is {total_steps!r}; give the number of optimizer steps of the whole run"
        )
    return int(total_steps)


class Plan(NamedTuple):
    """Learning rates over a run; its `str` is a table."""

    steps: tuple[int, ...]
    learning_rates: Mapping[str, tuple[float, ...]]
    """By kind of parameter: hidden, embedding, head, vector."""
    weight_decay: float
    cautious: float

    def __str__(self) -> str:
        width = max(10, len(str(self.steps[-1])))
        lines = ["".join(f"{title:>{width + 2}}" for title in ("step", *self.learning_rates))]
        for i, step in enumerate(self.steps):
            cells = [f"{values[i]:.2e}" for values in self.learning_rates.values()]
            lines.append("".join(f"{cell:>{width + 2}}" for cell in (str(step), *cells)))
        return "\n".join([*lines, self.decay])

    @property
    def decay(self) -> str:
        """How weights decay, in words."""
        if self.cautious == 0:
            where = "everywhere"
        elif self.cautious == 1:
            where = "except where the update moves a weight away from zero"
        else:
            where = f"{1 - self.cautious:g} of it where the update moves a weight away from zero"
        return (
            f"weight decay {self.weight_decay:g} at the learning rate of hidden matrices, {where}"
        )


def plan(
    policy: Policy,
    total_steps: int,
    steps: Sequence[int] | None = None,
    weight_factor: float = 1.0,
    width_factor: float = 1.0,
) -> Plan:
    """Return the learning rate of each kind of parameter at some steps, by default at eleven.

    `weight_factor` and `width_factor` are those of the policy for the model, 1 unless its weights
    are small or it is wide.

    Raises:
        InputError: `total_steps` is not a whole number above 0.
    """
    total_steps = check_total_steps(total_steps)
    if steps is None:
        steps = sorted({round(i * (total_steps - 1) / 10) for i in range(11)})
    factors = [float(policy.factor(np, step, total_steps)) for step in steps]
    rates = {}
    for kind in KINDS:
        peak = float(policy.peak(np, kind, total_steps)) * weight_factor
        if kind == HIDDEN:
            peak *= width_factor
        rates[kind] = tuple(peak * factor for factor in factors)
    return Plan(tuple(steps), rates, float(policy.weight_decay), float(policy.cautious))
