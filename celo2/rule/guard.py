"""The guard: the least push along the momentum after which the update surely has an angle to it.

For a matrix with momentum M and normalized update U, let c = cos(M, U). Where c < kappa,

    U' = U/|U| + a M/|M|,    a = kappa sqrt((1 - c^2) / (1 - kappa^2)) - c,

brought back to the size of U: of all directions at cosine kappa to M the nearest to U. Where U is
no direction, M takes its place; without momentum there is no update. Whatever theta is, that
bounds the mean norm of the gradient (docs/guarantee.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from celo2.errors import InputError
from celo2.rule.finish import normalize
from celo2.rule.network import Weights
from celo2.rule.spec import Spec
from celo2.rule.update import Accumulators, keep_inactive, propose

Array = Any

MOMENTUM = 0
"""Index of the guarding momentum: that of the first decay, 0.9, to which updates are closest."""
NO_MOMENTUM = 1e-25
"""Sum of magnitudes up to which a momentum counts as zero; its inverse squared must be finite."""
NO_DIRECTION = 0.5
"""Mean square below which a normalized update is no direction: it was lost in the epsilon."""
OPPOSED = 1e-4
"""1 - c^2 below which an update has no part across the momentum that outlasts rounding."""


class Products(NamedTuple):
    """Sums over the entries of each matrix, (..., 1, 1), of M over its sum of magnitudes, and U."""

    momentum: Array
    """Sum of M^2."""
    both: Array
    """Sum of M U."""
    update: Array
    """Sum of U^2."""


class Push(NamedTuple):
    """The guarded update is `on_update` U + `on_momentum` M, each factor (..., 1, 1).

    U may be NaN where `on_update` is 0.
    """

    on_update: Array
    on_momentum: Array
    pushed: Array
    """Whether the guard changed the update, bool."""


def check_kappa(kappa: Any) -> None:
    """Raise InputError unless kappa is None or between 0 and 1; a traced one is not looked at."""
    if isinstance(kappa, float | int) and not isinstance(kappa, bool):
        fits = 0 < kappa < 1
    else:
        fits = kappa is None or hasattr(kappa, "dtype")
    if not fits:
        raise InputError(f"guard is {kappa!r}; give a number between 0 and 1, or None")


def guarded_update(
    xp: Any,
    spec: Spec,
    theta: Weights,
    accumulators: Accumulators,
    g: Array,
    p: Array,
    orthogonalize: Callable[[Any, Spec, Array], Array] | None,
    kappa: float,
    active: Array | None = None,
) -> tuple[Array, Accumulators, Array]:
    """Return what `celo2.rule.update` does, guarded, and whether each matrix was pushed.

    `kappa`, between 0 and 1, is the least cosine of update and momentum; the last of what is
    returned is bool, (..., 1, 1).
    """
    d, new = propose(xp, spec, theta, accumulators, g, p, orthogonalize)
    u, pushed = guarded(xp, spec, d, new.averages[MOMENTUM], kappa)
    if active is None:
        return u, new, pushed
    return u * active, keep_inactive(xp, active, new, accumulators), pushed & active


def guarded(xp: Any, spec: Spec, d: Array, m: Array, kappa: float) -> tuple[Array, Array]:
    """Return the guarded update of RMS 1 from a direction and its momentum, and who was pushed.

    The last is bool, (..., 1, 1).
    """
    magnitude = xp.sum(xp.abs(m), axis=(-2, -1), keepdims=True)
    u = normalize(xp, spec, d, magnitude > NO_MOMENTUM)
    entries = m.shape[-2] * m.shape[-1]
    found = push(xp, kappa, entries, magnitude, products(xp, m, u, magnitude))
    u = xp.where(found.on_update > 0, u, 0.0) * found.on_update + found.on_momentum * m
    return u, found.pushed


def products(xp: Any, m: Array, u: Array, magnitude: Array) -> Products:
    """Return the sums over entries (..., a, b), of a matrix or of a part of one.

    Over its sum of magnitudes, which is that of the whole matrix, a momentum has squares that
    neither overflow nor vanish.
    """
    m = m / xp.clip(magnitude, NO_MOMENTUM, None)
    sums = [xp.sum(x, axis=(-2, -1), keepdims=True) for x in (m * m, m * u, u * u)]
    return Products(*sums)


def push(xp: Any, kappa: float, entries: int, magnitude: Array, sums: Products) -> Push:
    """Return the guarded update of each matrix as a combination of U and M.

    Args:
        xp: array namespace.
        kappa: the least cosine.
        entries: of a matrix.
        magnitude: sum of magnitudes of M, (..., 1, 1).
        sums: over whole matrices.
    """
    seen = magnitude > NO_MOMENTUM
    # NaN fails both comparisons, so what is not finite is no direction.
    usable = (sums.update >= NO_DIRECTION * entries) & (sums.update < math.inf) & seen
    m = xp.sqrt(xp.where(seen, sums.momentum, 1.0))
    u = xp.sqrt(xp.where(usable, sums.update, 1.0))
    c = xp.clip(xp.where(usable, sums.both, 0.0) / (m * u), -1.0, 1.0)
    across = 1 - c * c
    low = c < kappa
    blended = usable & low & (across >= OPPOSED)
    replaced = seen & ~blended & (low | ~usable)
    # The length of U/|U| + a M/|M|; a over it is kappa - c over it.
    length = xp.sqrt(xp.where(blended, across, 1.0) / (1 - kappa * kappa))
    on_update = xp.where(blended, 1 / length, 1.0)
    on_update = xp.where(replaced | ~seen, 0.0, on_update)
    share = xp.where(blended, (kappa - c / length) * u, 0.0)
    share = xp.where(replaced, entries**0.5, share)
    on_momentum = share / (m * xp.clip(magnitude, NO_MOMENTUM, None))
    return Push(on_update, on_momentum, blended | replaced)
