"""Look at a theta in NumPy alone: where it is from, and how its update remembers a gradient.

Run: python examples/inspect_theta.py [name or path].
"""

from __future__ import annotations

import sys

import numpy as np

from celo2 import Theta, load_theta
from celo2.rule import init, orthogonalize, update


def memory(theta: Theta, delays: int) -> list[float]:
    """Return the mean cosine of an update to the gradient that came so many steps ago.

    Gradients are random and independent, so nothing but memory makes them alike.
    """
    draw = np.random.default_rng(0)
    p = 0.1 * draw.standard_normal((16, 32))
    accumulators, gradients, updates = init(np, theta.spec, p), [], []
    finish = orthogonalize if theta.spec.newton_schulz else None
    for _ in range(200):
        gradients.append(0.01 * draw.standard_normal(p.shape))
        new, accumulators = update(
            np, theta.spec, theta.weights, accumulators, gradients[-1], p, finish
        )
        updates.append(new)
    cosines = []
    for delay in range(delays):
        pairs = zip(updates[100:], gradients[100 - delay :], strict=False)
        cosines.append(float(np.mean([_cosine(u, g) for u, g in pairs])))
    return cosines


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def main(source: str) -> None:
    """Print the provenance of a theta and its memory."""
    theta = load_theta(source)
    print(theta.identity)
    for name in ("date", "minutes", "commit"):
        print(f"  {name}: {theta.provenance.get(name, 'not recorded')}")
    print("cosine of the update to the gradient of so many steps ago:")
    for delay, cosine in enumerate(memory(theta, delays=10)):
        print(f"  {delay}  {cosine:+.3f}  {'#' * round(40 * max(cosine, 0))}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "celo2")
