"""Adam of the parameters that the rule leaves to it, as the authors meta-train or as users have it.

Both are optax transformations of one array.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo2.jax.adam import scale_by_adam

Adam = Literal["published", "front-end"]
DECAYS = (0.9, 0.95)
EPSILON = 1e-8


class Moments(NamedTuple):
    """State of the authors' Adam: averages of the gradient and of its square."""

    first: jax.Array
    second: jax.Array


def as_published() -> optax.GradientTransformation:
    """Return the authors' Adam: no bias correction, epsilon inside the root."""

    def init(params: Any) -> Moments:
        return Moments(jnp.zeros_like(params), jnp.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[jax.Array, Moments]:
        del params
        (b1, b2), g = DECAYS, updates
        new = Moments(b1 * state.first + (1 - b1) * g, b2 * state.second + (1 - b2) * g * g)
        return new.first / jnp.sqrt(new.second + EPSILON), new

    return optax.GradientTransformation(init, update)


ADAMS: dict[Adam, Any] = {
    "published": as_published(),
    "front-end": scale_by_adam(*DECAYS, EPSILON),
}
