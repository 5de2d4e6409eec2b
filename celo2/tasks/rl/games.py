"""The reinforcement-learning problems by name, at the settings that purejaxrl has for each."""

from __future__ import annotations

from collections.abc import Callable

from celo2.tasks.base import TaskFamily
from celo2.tasks.rl.ppo import PPO

RL: dict[str, Callable[[], TaskFamily]] = {
    "cartpole": lambda: PPO("CartPole-v1", environments=4, minibatches=4, activation="tanh"),
    "asterix": lambda: PPO("Asterix-MinAtar"),
    "breakout": lambda: PPO("Breakout-MinAtar"),
    "freeway": lambda: PPO("Freeway-MinAtar"),
    "space-invaders": lambda: PPO("SpaceInvaders-MinAtar"),
}
