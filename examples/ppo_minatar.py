"""Train an agent by PPO on MinAtar Breakout, with Celo2 and with Adam.

Run: python examples/ppo_minatar.py [environment steps]. A million, the default, take a minute or
two per optimizer on one core.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import optax

from celo2.jax import celo2
from celo2.tasks.rl.ppo import PPO

FAMILY = PPO("Breakout-MinAtar")  # 64 environments, 128 steps each per rollout


def adam(total_steps: int) -> optax.GradientTransformation:
    """Return Adam as purejaxrl runs it on MinAtar."""
    learning_rate = optax.linear_schedule(5e-3, 0.0, total_steps)
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(learning_rate, eps=1e-5))


def train(name: str, optimizer: optax.GradientTransformation, rollouts: int) -> None:
    """Train from seed 0, and print the return ten times."""

    @jax.jit
    def improve(carry: Any, key: jax.Array) -> Any:
        """Play one rollout and learn from its minibatches, one per step of the optimizer."""

        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            params, agent, state = carry
            (_, agent), grads = gradient(params, agent, (), key)  # the first one plays the rollout
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), agent, state), None

        return jax.lax.scan(step, carry, jax.random.split(key, FAMILY.uses))[0]

    gradient = jax.value_and_grad(FAMILY.loss, has_aux=True)
    init_key, key = jax.random.split(jax.random.key(0))
    params, agent = jax.jit(FAMILY.init)(init_key, ())
    carry = params, agent, optimizer.init(params)
    for i, rollout_key in enumerate(jax.random.split(key, rollouts), start=1):
        carry = improve(carry, rollout_key)
        if i % max(1, rollouts // 10) == 0:
            metrics = FAMILY.evaluate(carry[0], carry[1], (), key)
            played = f"{i * FAMILY.rows:9,} environment steps"
            print(f"{name:5}  {played}  return {metrics['return']:6.2f}")


def main() -> None:
    """Train with both, from the same weights."""
    environment_steps = int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000
    rollouts = max(1, environment_steps // FAMILY.rows)
    total_steps = rollouts * FAMILY.uses
    train("Celo2", celo2(total_steps=total_steps), rollouts)  # no learning rate
    train("Adam", adam(total_steps), rollouts)


if __name__ == "__main__":
    main()
