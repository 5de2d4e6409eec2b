"""Task families small enough to run by the thousand."""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quadratic:
    """Bring W and b to targets; a task is the pair of targets."""

    targets: jax.Array = dataclasses.field(default_factory=lambda: jnp.ones(()))

    def sample(self, key):
        return jax.random.normal(key, (4, 3))

    def init(self, key, task):
        return {"w": 0.1 * jax.random.normal(key, (4, 3)), "b": jnp.zeros(3)}

    def batch(self, key, task):
        return 0.1 * jax.random.normal(key, (4, 3))

    def held_out(self, key, task):
        return self.batch(key, task)

    def loss(self, params, task, batch):
        return jnp.mean(jnp.square(params["w"] + params["b"] - self.targets * task - batch))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fixed:
    """One quadratic problem without any randomness, badly scaled, so that the direction matters."""

    target: jax.Array = dataclasses.field(default_factory=lambda: jnp.array([[1.0, -2.0], [0.5, 1.5], [-1.0, 0.3]]))

    def sample(self, key):
        return jnp.zeros(())

    def init(self, key, task):
        return {"w": jnp.zeros((3, 2))}

    def batch(self, key, task):
        return jnp.zeros(())

    def held_out(self, key, task):
        return self.batch(key, task)

    def loss(self, params, task, batch):
        scale = jnp.array([[1.0, 3.0], [0.3, 1.0], [2.0, 0.1]])
        return jnp.mean(scale * jnp.square(params["w"] - self.target))
