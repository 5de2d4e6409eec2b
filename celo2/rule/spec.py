"""The constants of an update rule: everything about it that was not learned."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from celo2.errors import InputError


@dataclasses.dataclass(frozen=True)
class Spec:
    """Constants of one rule; they travel in the header of its theta file. Defaults are those of the Celo2 paper."""

    orthogonalize: bool = True
    """Newton-Schulz on matrices, AdamW for vectors, embeddings and head (Celo2); False: the rule alone on all (Celo2-base)."""
    hidden: int = 8
    """Width of both hidden layers of the MLP."""
    momentum_decays: tuple[float, float, float] = (0.9, 0.99, 0.999)
    """Decays of the three momenta M_i."""
    second_moment_decay: float = 0.95
    """Decay of V, the running mean of the squared gradient."""
    factored_decays: tuple[float, float, float] = (0.9, 0.99, 0.999)
    """Decays of the three factored second moments R_i, C_i (D_i for a vector)."""
    gradient_clip: float = 1000.0
    """Gradients are clamped to this magnitude before anything reads them."""
    feature_clip: float = 0.1
    """Magnitude at which the clipped-gradient channel saturates."""
    factored_floor: float = 1e-30
    """Added to the squared gradient before it is factored."""
    second_moment_epsilon: float = 1e-8
    """Inside 1/sqrt(V), 1/sqrt(R) and 1/sqrt(C)."""
    factored_epsilon: float = 1e-9
    """Added to mean(R), and floor inside the factored preconditioner."""
    normalize_epsilon: float = 1e-9
    """Inside the root of every RMS normalisation, of channels and of the step."""
    newton_schulz_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    """Of X, (X X^T) X and (X X^T)^2 X in one Newton-Schulz iteration."""
    newton_schulz_iterations: int = 5
    """Iterations of Newton-Schulz."""
    newton_schulz_epsilon: float = 1e-8
    """Added to the Frobenius norm that the direction is divided by first."""

    def to_json(self) -> str:
        """The spec as a JSON object, one key a field, sorted."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """The inverse of `to_json`.

        Raises:
            InputError: `text` is no JSON object, or its keys are not exactly the fields of a spec.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(
                f"the spec {text[:40]!r} is no JSON ({error}); take the theta file from its source again"
            ) from error
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            odd = sorted(names.symmetric_difference(values if isinstance(values, dict) else ()))
            raise InputError(f"the spec has missing or unknown fields {odd}; this theta needs another version of celo2")
        arguments: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**arguments)
