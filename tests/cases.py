"""Shapes of every parity test, in the rule's layout (..., in, out); golden file; drawn inputs."""

from pathlib import Path

import numpy as np

from celo2 import Theta
from celo2.policy import Policy, PowerLaw

GOLDEN = np.load(Path(__file__).parent / "golden" / "celo2_rule.npz")
REFERENCE = {
    key.removeprefix("theta/"): GOLDEN[key] for key in GOLDEN.files if key.startswith("theta/")
}
THETA = Theta.from_reference(REFERENCE)
POLICY = Policy(
    hidden=PowerLaw(2e-3, -0.5),
    embedding=PowerLaw(4e-2, -0.7),
    head=PowerLaw(2e-2, -0.6),
    vector=PowerLaw(1e-2, -0.5),
    warmup=0.1,
    final=0.05,
    linear=1.0,
    weight_decay=0.1,
    cautious=0.5,
    small_weights=0.1,
    reference_width=128.0,
)
"""Of the tests of `total_steps`; not the shipped one."""
GOLDEN_CASES = sorted(
    {key.rsplit("/", 1)[0] for key in GOLDEN.files if not key.startswith("theta/")}
)

SHAPES = {
    "scalar": (),
    "vector": (5,),
    "tall": (7, 5),
    "wide": (5, 7),
    "square": (16, 16),
    "row": (1, 9),
    "column": (9, 1),
    "conv": (3, 3, 8, 16),
    "conv square": (3, 3, 8, 8),
    "batched": (3, 8, 16),
    "longer batch": (40, 6, 4),
}


def draw(shape, steps=20, seed=0, scale=1.0):
    """Return a parameter and gradients (steps, *shape), correlated in time as in training."""
    rng = np.random.default_rng(seed)
    drift = rng.standard_normal(shape)
    grads = scale * (0.5 * drift + rng.standard_normal((steps, *shape)))
    return np.asarray(0.1 * rng.standard_normal(shape), np.float32), np.asarray(grads, np.float32)
