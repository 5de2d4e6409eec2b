"""Newton-Schulz in PyTorch: `rule.orthogonalize` in place.

It takes fewer products where a matrix is much longer than wide: the iterations are a polynomial in
the small Gram matrix X X^T. The coefficients are those of the spec.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from celo2.rule.spec import Coefficients, Spec

GRAM_FROM = 1.5
"""Ratio b / a from which the Gram form is cheaper: 8 a^2 b + 28 a^3 operations against
20 a^2 b + 10 a^3."""
RESTART_EVERY = 3
"""Iterations after which the Gram matrix is recomputed: for small singular values its rounding
error grows about twelvefold per iteration with the coefficients of Muon."""
TILE = 1 << 20
"""Elements of x that are multiplied at once: products of this size reach full speed."""


def orthogonalize(spec: Spec, d: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Bring all singular values of d (..., a, b), a <= b, to about 1, and overwrite d.

    In `dtype` bfloat16 products are several times faster, and singular values off by up to a tenth.
    The Gram form would then lose small ones, as it would where PyTorch may round float32 (TF32): it
    is taken only in full precision.
    """
    norm = torch.linalg.vector_norm(d, dim=(-2, -1), keepdim=True)
    d.div_(norm + spec.newton_schulz_epsilon)
    x = d.reshape(-1, *d.shape[-2:]).to(dtype or d.dtype)
    a, b = x.shape[-2:]
    exact = x.dtype == torch.float64 or (
        x.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    )
    left = spec.newton_schulz_steps
    while left:
        here = (len(left) - 1) % RESTART_EVERY + 1 if exact and b >= GRAM_FROM * a else 1
        _multiply_(*_polynomial(left[:here], x @ x.mT), x)
        left = left[here:]
    return d.copy_(x.view(d.shape)) if x.data_ptr() != d.data_ptr() else d


def _polynomial(iterations: Sequence[Coefficients], gram: Tensor) -> tuple[Tensor, float]:
    """Return (Q, c) such that `iterations` take X to (Q + c) X; Q is a polynomial in X X^T."""
    c1, c3, c5 = iterations[0]
    result = torch.baddbmm(gram, gram, gram, beta=c3, alpha=c5)
    if len(iterations) == 1:
        return result, c1
    result.diagonal(dim1=-2, dim2=-1).add_(c1)
    factor = result
    for c1, c3, c5 in iterations[1:]:
        gram = factor @ gram @ factor
        factor = torch.baddbmm(gram, gram, gram, beta=c3, alpha=c5)
        factor.diagonal(dim1=-2, dim2=-1).add_(c1)
        result = factor @ result
    return result, 0.0


def _multiply_(polynomial: Tensor, c: float, x: Tensor) -> None:
    """Set x <- (polynomial + c) x, some columns at a time, so that no second x is allocated."""
    width = max(1, TILE // (x.shape[0] * x.shape[1]))
    for columns in x.split(width, dim=-1):
        columns.copy_(torch.baddbmm(columns, polynomial, columns, beta=c))
