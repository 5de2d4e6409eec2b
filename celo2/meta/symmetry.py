"""The odd rules: those whose update changes sign with gradient, momentum and weights.

Nothing in the rule's MLP says that the update for -g is minus the update for g, and meta-training
on small networks learns it only where it saw gradients. Where a network has inputs that are almost
always zero, a part that is not odd pushes weights in one direction forever. Odd rules are a linear
subspace of theta: hidden units come in pairs (2k, 2k+1) that are exchanged when the sign changes. A
gradient projected onto it keeps theta in it, under Adam too, since both of a pair get equal
updates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from celo2.rule import Spec, Weights, channel_signs


def project(spec: Spec, weights: Weights) -> Weights:
    """Return the nearest odd rule; of a meta-gradient, its part along the odd rules.

    Arrays are of NumPy or JAX; the hidden width is even.
    """
    signs = np.array(channel_signs(spec), np.float32)
    w0, b0, w1, b1, w2, b2 = weights
    return Weights(
        (w0 + signs[:, None] * _swapped(w0, -1)) / 2,
        (b0 + _swapped(b0, -1)) / 2,
        (w1 + _swapped(_swapped(w1, 0), 1)) / 2,
        (b1 + _swapped(b1, -1)) / 2,
        (w2 - _swapped(w2, 0)) / 2,
        0 * b2,
    )


def _swapped(x: Any, axis: int) -> Any:
    """Exchange units 0 and 1, 2 and 3, and so on."""
    order = np.arange(x.shape[axis]) ^ 1
    return x[order] if axis == 0 else x[..., order]
