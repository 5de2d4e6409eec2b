"""The constants of an update rule: everything about it that was not learned."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from celo2.errors import InputError

Decays = tuple[float, ...]
Coefficients = tuple[float, float, float]
"""Of X, (X X^T) X and (X X^T)^2 X in one iteration of Newton-Schulz."""

PUBLISHED_FEATURES = (
    "G",
    "clip(G)",
    "W",
    "M",
    "V",
    "M s",
    "s",
    "G F",
    "G s",
    "R",
    "C",
    "1/sqrt(R)",
    "1/sqrt(C)",
    "M F",
)
"""Names of the rows of `celo2.rule.features.FEATURES` that the paper's rule reads, in its order."""
LEAN_FEATURES = ("G", "clip(G)", "M", "G F", "R", "C", "1/sqrt(R)", "1/sqrt(C)", "M F")
"""Those that need neither V nor the weights."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """Constants of one rule, stored in the header of its theta file; defaults are the paper's.

    Raises:
        InputError: a constant out of range, or an unknown feature.
    """

    newton_schulz: bool = True
    """Orthogonalize the direction of every matrix (Celo2); False: use it as it is (Celo2-base)."""
    everywhere: bool = False
    """Apply the rule to every parameter (Celo2-base); False: to hidden matrices only."""
    features: tuple[str, ...] = PUBLISHED_FEATURES
    """Names of the features that the MLP reads, in the order of the rows of its first layer."""
    hidden: int = 8
    """Width of both hidden layers of the MLP."""
    momentum_decays: Decays = (0.9, 0.99, 0.999)
    """Decays of the momenta M_i."""
    second_moment_decay: float = 0.95
    """Decay of V, the running mean of the squared gradient."""
    factored_decays: Decays = (0.9, 0.99, 0.999)
    """Decays of the factored second moments R_i, C_i (D_i for a vector); as many as momenta."""
    gradient_clip: float = 1000.0
    """Gradients are clamped to this magnitude before anything reads them."""
    feature_clip: float = 0.1
    """Magnitude at which the clipped-gradient feature saturates."""
    factored_floor: float = 1e-30
    """Added to the squared gradient before it is factored."""
    second_moment_epsilon: float = 1e-8
    """Inside 1/sqrt(V), 1/sqrt(R) and 1/sqrt(C)."""
    factored_epsilon: float = 1e-9
    """Added to mean(R), and floor inside the factored preconditioner."""
    normalize_epsilon: float = 1e-9
    """Inside the root of every RMS normalization, of channels and of the update."""
    newton_schulz_coefficients: Coefficients | tuple[Coefficients, ...] = (3.4445, -4.7750, 2.0315)
    """Of all iterations (Jordan et al., Muon, 2024); or of one after another, the last ones also
    for those that follow, and none used beyond `newton_schulz_iterations`."""
    newton_schulz_iterations: int = 5
    """Iterations of Newton-Schulz."""
    newton_schulz_epsilon: float = 1e-8
    """Added to the Frobenius norm that the direction is divided by first."""

    def __post_init__(self) -> None:
        decays = (*self.momentum_decays, self.second_moment_decay, *self.factored_decays)
        if not all(isinstance(decay, float | int) and 0 <= decay < 1 for decay in decays):
            raise InputError(f"the spec has decays {decays}; each must be at least 0 and below 1")
        if len(self.momentum_decays) != len(self.factored_decays) or not self.momentum_decays:
            raise InputError(
                f"the spec has momentum_decays {self.momentum_decays} and factored_decays "
                f"{self.factored_decays}; give as many of each, at least one"
            )
        if not 1 <= self.hidden <= 1024 or not 0 <= self.newton_schulz_iterations <= 100:
            raise InputError(
                f"the spec has hidden {self.hidden} and newton_schulz_iterations "
                f"{self.newton_schulz_iterations}; they must lie in 1..1024 and 0..100"
            )
        if not _are_coefficients(self.newton_schulz_coefficients):
            raise InputError(
                f"the spec has newton_schulz_coefficients {self.newton_schulz_coefficients}; "
                "give a tuple of three finite numbers, or a tuple of such tuples"
            )
        for field in dataclasses.fields(self):
            if field.type == "float" and not _is_positive(getattr(self, field.name)):
                value = getattr(self, field.name)
                raise InputError(f"the spec has {field.name} {value!r}; give a number above 0")
        unknown = set(self.features) - set(PUBLISHED_FEATURES)
        if unknown or len(set(self.features)) < len(self.features) or not self.features:
            raise InputError(
                f"the spec has features {self.features}; "
                f"take some of {', '.join(PUBLISHED_FEATURES)}, each once"
            )

    @property
    def newton_schulz_steps(self) -> tuple[Coefficients, ...]:
        """Coefficients of every iteration of Newton-Schulz."""
        given: Any = self.newton_schulz_coefficients
        iterations = (given,) if _is_triple(given) else given
        repeated = (iterations[-1],) * self.newton_schulz_iterations
        return (*iterations, *repeated)[: self.newton_schulz_iterations]

    def to_json(self) -> str:
        """Return the spec as a JSON object with one key per field, sorted."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def changes(self) -> dict[str, Any]:
        """Return the fields that differ from the paper's rule: what identifies the spec.

        A field added later, whose default is what the rule did before, leaves identities alone.
        """
        published = Spec()
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if value != getattr(published, name)
        }

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Read what `to_json` wrote; fields that are absent have the paper's value.

        Raises:
            InputError: `text` is not a JSON object, or has keys that are no fields of a spec.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(
                f"the spec {text[:40]!r} is not JSON ({error}); get the theta file again"
            ) from error
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or not set(values) <= names:
            unknown = sorted(set(values) - names) if isinstance(values, dict) else values
            raise InputError(
                f"the spec has unknown fields {unknown}; this theta needs another version of celo2"
            )
        return cls(**{name: as_tuples(value) for name, value in values.items()})


def as_tuples(value: Any) -> Any:
    """Return a list of JSON, and the lists in it, as tuples; another value as it is."""
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def _are_coefficients(value: Any) -> bool:
    """Return whether they are those of one iteration, or of several."""
    several = isinstance(value, tuple) and value != () and all(map(_is_triple, value))
    return several or _is_triple(value)


def _is_triple(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) != 3:
        return False
    return all(isinstance(c, float | int) and math.isfinite(c) for c in value)


def _is_positive(value: Any) -> bool:
    return isinstance(value, float | int) and math.isfinite(value) and value > 0


LEAN = Spec(features=LEAN_FEATURES, momentum_decays=(0.9, 0.98), factored_decays=(0.9, 0.98))
"""Half the state of the paper's rule: factored moments, and averages of the gradient with mean ages
of 9 and 49 steps."""

_SAFETY = 1.01
"""Singular values are divided by it, since rounding may have made some larger than 1."""
_OPTIMAL = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
POLAR_EXPRESS: tuple[Coefficients, ...] = (
    *((a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _OPTIMAL),
    (1.875, -1.25, 0.375),
)
"""For `newton_schulz_coefficients`: each iteration is the best one after those before it, for
singular values from 1e-3 to 1 (Amsel et al., The Polar Express, arXiv 2505.16932, algorithm 1)."""
