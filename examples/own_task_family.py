"""Meta-train on a problem of your own: a task family in one class.

Run: python examples/own_task_family.py [outer steps].
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from celo2 import Theta
from celo2.meta.checkpoint import theta_of
from celo2.meta.config import MetaConfig
from celo2.meta.estimators import Unrolled
from celo2.meta.inner import InnerLoop
from celo2.meta.outer import run
from celo2.tasks.base import Metrics, ModelState, Params, lecun


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sines:
    """Regression of sin(frequency x + phase) by a network 1-32-32-1; a task is one sine."""

    frequencies: jax.Array  # (n,), the data of the family: tasks draw one of them

    def sample(self, key: jax.Array) -> jax.Array:
        index_key, phase_key = jax.random.split(key)
        frequency = jax.random.choice(index_key, self.frequencies)
        return jnp.stack([frequency, jax.random.uniform(phase_key, maxval=2 * jnp.pi)])

    def init(self, key: jax.Array, task: jax.Array) -> tuple[Params, ModelState]:
        keys = jax.random.split(key, 3)
        params = {}
        for i, shape in enumerate([(1, 32), (32, 32), (32, 1)]):
            params[f"w{i}"] = lecun(keys[i], shape)
            params[f"b{i}"] = jnp.zeros(shape[1])
        return params, ()  # no model state

    def loss(
        self, params: Params, state: ModelState, task: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, ModelState]:
        x = jax.random.uniform(key, (64, 1), minval=-3, maxval=3)
        h = x
        for i in range(2):
            h = jnp.tanh(h @ params[f"w{i}"] + params[f"b{i}"])
        error = h @ params["w2"] + params["b2"] - jnp.sin(task[0] * x + task[1])
        return jnp.mean(jnp.square(error)), state

    def evaluate(
        self, params: Params, state: ModelState, task: jax.Array, key: jax.Array
    ) -> Metrics:
        # There is no end of points on a sine, so other draws of them are held out.
        return {"loss": self.loss(params, state, task, key)[0]}


def main() -> None:
    """Meta-train on sines alone.

    The theta can be given to `celo2.jax.celo2` and `celo2.torch.Celo2` by its path.
    """
    config = MetaConfig(
        inner=InnerLoop(learning_rate=(2e-3, 2e-2), cosine=True, horizon=(100, 300)),
        estimator=Unrolled(trajectories=8, truncation_length=20),
        outer_steps=int(sys.argv[1]) if len(sys.argv) > 1 else 200,
        start="muon-1",
        odd=True,
        learning_rate=1e-3,
        warmup=2,
    )
    out = Path("runs/sines")
    for metrics in run(config, [Sines(jnp.array([0.5, 1.0, 2.0]))], out):
        if metrics.step % 20 == 0:
            print(f"outer step {metrics.step}: meta-loss {metrics.meta_loss:.4f}")
    Theta(theta_of(out)[0], config.inner.spec, "sines").save(out / "theta.safetensors")
    print(f"theta in {out / 'theta.safetensors'}")


if __name__ == "__main__":
    main()
