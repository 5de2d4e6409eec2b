"""Newton-Schulz in PyTorch: `rule.orthogonalize` with fused products and a bound on its memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from celo2.spec import Spec


def orthogonalize(xp: Any, spec: Spec, d: Tensor) -> Tensor:
    """All singular values of d (..., a, b), a <= b, to about 1. Overwrites `d`; at most three arrays of its size live."""
    c1, c3, c5 = spec.newton_schulz_coefficients
    norm = torch.linalg.vector_norm(d, dim=(-2, -1), keepdim=True)
    x = d.div_(norm + spec.newton_schulz_epsilon).reshape(-1, *d.shape[-2:])
    for _ in range(spec.newton_schulz_iterations):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=c3, alpha=c5)
        del gram
        x.copy_(torch.baddbmm(x, polynomial, x, beta=c1))  # a new x each time would keep the caller's `d` alive beside it
        del polynomial
    return x.reshape(d.shape)
