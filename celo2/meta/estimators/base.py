"""What an estimator of the meta-gradient is."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax

from celo2.errors import InputError
from celo2.meta.inner import InnerLoop, Trajectory, start
from celo2.meta.learners import Weights
from celo2.tasks.base import TaskFamily


class Estimate(NamedTuple):
    """Outcome of one outer step."""

    gradient: Weights
    """Of the meta-loss with respect to theta."""
    loss: jax.Array
    """Mean over trajectories and inner steps of the clipped loss, unweighted."""
    dropped: jax.Array
    """Number of trajectories left out because their gradient was not finite."""
    state: Any
    """For the next outer step."""


class Estimator(Protocol):
    """One way to estimate the meta-gradient: a frozen dataclass, static under jit, pure methods."""

    @property
    def trajectories(self) -> int:
        """Leading axis of the state, sharded over devices. An antithetic pair counts as one."""
        ...

    @property
    def truncation_length(self) -> int:
        """Inner steps of each trajectory per outer step."""
        ...

    def begin(self, loop: InnerLoop, family: TaskFamily, theta: Weights, key: jax.Array) -> Any:
        """Return the state with fresh trajectories."""
        ...

    def estimate(
        self,
        loop: InnerLoop,
        family: TaskFamily,
        theta: Weights,
        state: Any,
        key: jax.Array,
        progress: jax.Array | float = 0.0,
    ) -> Estimate:
        """Unroll all trajectories by one truncation.

        `progress` is the fraction of the outer steps that are done.
        """
        ...


def check_truncation(loop: InnerLoop, truncation_length: int) -> None:
    """Check that no trajectory can end twice within one unroll.

    Raises:
        InputError: the shortest horizon is shorter than an unroll.
    """
    if loop.horizon[0] < truncation_length:
        raise InputError(
            f"the shortest horizon is {loop.horizon[0]} inner steps "
            f"and an unroll has {truncation_length}; "
            "give a horizon at least as long as the unroll"
        )


def starts(loop: InnerLoop, family: TaskFamily, key: jax.Array, count: int) -> Trajectory:
    """Start `count` trajectories, their leading axis."""
    return jax.vmap(lambda key: start(loop, family, key))(jax.random.split(key, count))


def first_starts(loop: InnerLoop, family: TaskFamily, key: jax.Array, count: int) -> Trajectory:
    """Start the trajectories of a new run, staggered if the loop says so."""
    start_key, stagger_key = jax.random.split(key)
    trajectories = starts(loop, family, start_key, count)
    step = jax.random.randint(stagger_key, (count,), 0, trajectories.horizon)
    return trajectories._replace(step=step) if loop.staggered else trajectories
