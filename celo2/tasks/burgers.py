"""A physics-informed network (Raissi et al. 2019) for Burgers' equation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from celo2.tasks.base import Metrics, ModelState, Params, Supervised, lecun
from celo2.tasks.layers import linear
from celo2.tasks.tables import Rows, rows

VISCOSITY = 0.01 / np.pi


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Collocation:
    """Random points (x, t) in [-1, 1] x [0, 1], and fixed ones where the solution is known."""

    known: Rows
    """Points (n, 2) and the solution there (n, 1); never trained on."""
    batch_size: int = dataclasses.field(metadata={"static": True})

    def sample(self, key: jax.Array) -> jax.Array:
        """Return the one task."""
        return jnp.zeros(())

    def batch(self, key: jax.Array, task: jax.Array) -> jax.Array:
        """Draw points (batch_size, 2)."""
        low, high = jnp.array([-1.0, 0.0]), jnp.array([1.0, 1.0])
        return jax.random.uniform(key, (self.batch_size, 2), minval=low, maxval=high)

    def held_out_batch(self, key: jax.Array, task: jax.Array) -> Rows:
        """Draw some of the points where the solution is known."""
        index = jax.random.randint(key, (self.batch_size,), 0, len(self.known.target))
        return Rows(self.known.features[index], self.known.target[index])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BurgersNetwork(Supervised):
    """Solve u_t + u u_x = nu u_xx with u(x, 0) = -sin(pi x) and u(-1, t) = u(1, t) = 0.

    The solution is -sin(pi x) + t (1 - x^2) N(x, t), which meets the conditions whatever the tanh
    network N is. The loss is the mean squared residual of the equation; beside it is the mean
    squared error against the exact solution.
    """

    width: int = dataclasses.field(default=96, metadata={"static": True})
    depth: int = dataclasses.field(default=4, metadata={"static": True})
    """Hidden layers."""

    def init_params(self, key: jax.Array) -> Params:
        names = [f"layers.{i}" for i in range(self.depth)] + ["head"]
        widths = [2, *[self.width] * self.depth, 1]
        params = {}
        for i, layer_key in enumerate(jax.random.split(key, len(names))):
            params[f"{names[i]}.w"] = lecun(layer_key, (widths[i], widths[i + 1]))
            params[f"{names[i]}.b"] = jnp.zeros(widths[i + 1])
        return params

    def solution(self, params: Params, x: jax.Array, t: jax.Array) -> jax.Array:
        """Compute u at points, x and t of one shape."""
        h = jnp.stack([x, 2 * t - 1], -1)
        for i in range(self.depth):
            h = jnp.tanh(linear(params, f"layers.{i}", h))
        return -jnp.sin(jnp.pi * x) + t * (1 - x * x) * linear(params, "head", h)[..., 0]

    def batch_loss(self, params: Params, batch: jax.Array) -> jax.Array:
        def solution(x: jax.Array, t: jax.Array) -> jax.Array:
            return self.solution(params, x, t)

        return jnp.square(residual(solution, batch[:, 0], batch[:, 1])).mean()

    def evaluate(
        self, params: Params, state: ModelState, task: jax.Array, key: jax.Array
    ) -> Metrics:
        points, u = self.data.held_out_batch(key, task)
        error = self.solution(params, points[:, 0], points[:, 1]) - u[:, 0]
        return {"loss": self.batch_loss(params, points), "error": jnp.square(error).mean()}


def residual(
    solution: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, t: jax.Array
) -> jax.Array:
    """Compute u_t + u u_x - nu u_xx of a function `solution(x, t)` that acts point by point."""

    def slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(lambda x: solution(x, t), (x,), (jnp.ones_like(x),))

    (u, u_x), (_, u_xx) = jax.jvp(slope, (x,), (jnp.ones_like(x),))
    u_t = jax.jvp(lambda t: solution(x, t), (t,), (jnp.ones_like(t),))[1]
    return u_t + u * u_x - VISCOSITY * u_xx


def exact(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Compute the solution for t > 0 by the Cole-Hopf transform and Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite.hermgauss(100)
    y = x[..., None] - 2 * np.sqrt(VISCOSITY * t)[..., None] * nodes
    exponent = -np.cos(np.pi * y) / (2 * np.pi * VISCOSITY)
    kernel = weights * np.exp(exponent - exponent.max(-1, keepdims=True))
    return -(np.sin(np.pi * y) * kernel).sum(-1) / kernel.sum(-1)


def collocation(batch_size: int, known: int = 4096) -> Collocation:
    """Make the data; the points where the solution is known are drawn once, uniformly."""
    rng = np.random.default_rng(0)
    x, t = rng.uniform(-1, 1, known), rng.uniform(0, 1, known)
    points = np.stack([x, t], -1)
    return Collocation(rows(points, exact(x, t)[:, None]), batch_size)
