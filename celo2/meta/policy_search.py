"""Learning a policy by evolution: whole runs of small networks, judged by their last loss.

A generation of CMA-ES is evaluated on one run of each task, each at one of the horizons; all
candidates of a task run side by side in one program, which takes the horizon as an argument. The
objective is the logarithm of the held-out loss at the end over that of a tuned AdamW: its mean over
the tasks plus its worst.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo2.errors import InputError
from celo2.files import append_line, read_arrays, read_lines, write_arrays
from celo2.jax import celo2
from celo2.policy import Policy
from celo2.schedule import warmup_cosine
from celo2.tasks.base import TaskFamily
from celo2.theta import Theta

HELD_OUT_BATCHES = 16
ADAMW_LEARNING_RATES = tuple(1e-3 * 2.0**i for i in range(7))
WORST = 2.0
"""Where the logarithm of a candidate's loss over AdamW's is clipped: a run that diverged."""


class Coordinate(NamedTuple):
    """How a number of the policy is searched: by its logarithm or as it is, in a range."""

    scale: float
    """Of the first generation: its standard deviation is a third of this."""
    logarithmic: bool
    low: float
    high: float


COORDINATES = {
    "at_1000": Coordinate(1.0, True, 1e-5, 0.5),
    "exponent": Coordinate(0.4, False, -1.2, 0.3),
    "warmup": Coordinate(1.0, True, 0.01, 0.4),
    "final": Coordinate(0.1, False, 0.0, 0.5),
    "linear": Coordinate(0.6, False, 0.0, 1.0),
    "weight_decay": Coordinate(1.0, False, 0.0, 10.0),
    "cautious": Coordinate(0.5, False, 0.0, 1.0),
}
"""By the last part of a number's name; a number that is not here stays as it is."""


@dataclasses.dataclass(frozen=True)
class PolicySearch:
    """One search; the same configuration gives the same policy, bit for bit, on the same device."""

    horizons: tuple[int, ...] = (100, 250, 600, 1500)
    """Lengths of the runs."""
    population: int = 12
    generations: int = 30
    seeds: int = 4
    """Initial networks and batches per task and horizon."""
    worst_weight: float = 0.5
    """Weight of the worst task of a generation beside the mean."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.population < 4:
            raise InputError(f"population is {self.population}; give at least 4")
        if not self.horizons or min(self.horizons) < 1:
            raise InputError(f"horizons are {self.horizons}; give some numbers above 0")


class Generation(NamedTuple):
    """What is reported after each generation."""

    number: int
    mean: float
    """Mean over candidates and tasks of the logarithm of the loss over tuned AdamW's."""
    best: float
    """Objective of the best candidate."""
    policy: Policy
    """The mean of the search distribution."""


def search(
    config: PolicySearch, theta: Theta, tasks: Mapping[str, TaskFamily], folder: Path
) -> Iterator[Generation]:
    """Run or resume a search in `folder`, from the policy of `theta`, and yield each generation.

    Raises:
        InputError: theta has no policy, or `folder` holds a search of another configuration.
    """
    start = theta.required_policy().numbers()
    _claim(folder, config, theta, start, tasks)
    dimensions = len(searched(start))
    strategy, params = _strategy(config, dimensions)
    key = jax.random.key(config.seed)
    state = strategy.init(key, jnp.zeros(dimensions), params)
    state, first = _restored(folder, state)
    ask, tell = jax.jit(strategy.ask), jax.jit(strategy.tell)
    for number in range(first, config.generations):
        ask_key, tell_key = jax.random.split(jax.random.fold_in(key, number))
        population, asked = ask(ask_key, state, params)
        candidates = decode(population, start)
        logs = _logs(config, theta, tasks, candidates, number, folder)
        objective = logs.mean(0) + config.worst_weight * logs.max(0)
        state, _ = tell(tell_key, population, jnp.asarray(objective), asked, params)
        _save(folder, state, number + 1)
        policy = _policy(decode(state.mean[None], start))
        yield Generation(number, float(logs.mean()), float(objective.min()), policy)


def searched(start: Mapping[str, float]) -> dict[str, Coordinate]:
    """Return the coordinates of the search, by the name of the policy's number."""
    coordinates = {name: COORDINATES.get(name.rpartition(".")[2]) for name in start}
    return {name: found for name, found in coordinates.items() if found is not None}


def decode(population: jax.Array, start: Mapping[str, float]) -> dict[str, jax.Array]:
    """Return the numbers of candidates (n, coordinates), by name; zeros are `start`."""
    numbers = {name: jnp.full(len(population), value) for name, value in start.items()}
    for x, (name, coordinate) in zip(population.T, searched(start).items(), strict=True):
        scale, logarithmic, low, high = coordinate
        value = start[name]
        moved = value * jnp.exp(scale * x) if logarithmic else value + scale * x
        numbers[name] = jnp.clip(moved, low, high)
    return numbers


def _policy(numbers: Mapping[str, jax.Array]) -> Policy:
    """Return the one candidate as a policy of five digits."""
    rounded = {name: float(f"{float(value[0]):.5g}") for name, value in numbers.items()}
    return Policy.of(rounded)


def _strategy(config: PolicySearch, dimensions: int) -> tuple[Any, Any]:
    # Imported here: evosax brings flax, which nothing else of meta-training needs.
    from evosax.algorithms import CMA_ES

    strategy = CMA_ES(population_size=config.population, solution=jnp.zeros(dimensions))
    return strategy, strategy.default_params.replace(std_init=jnp.asarray(1 / 3))


def _logs(
    config: PolicySearch,
    theta: Theta,
    tasks: Mapping[str, TaskFamily],
    candidates: Mapping[str, jax.Array],
    generation: int,
    folder: Path,
) -> np.ndarray:
    """Return the logarithms (tasks, candidates) of losses over tuned AdamW's."""
    rows = []
    for i, (name, family) in enumerate(tasks.items()):
        # Over generations every task meets every horizon, and later other seeds.
        horizon = config.horizons[(generation + i) % len(config.horizons)]
        seed = generation // len(config.horizons) % config.seeds
        key = jax.random.fold_in(jax.random.key(config.seed), seed)
        losses = policy_losses(theta, family, candidates, horizon, key)
        baseline = _baseline(folder, name, family, horizon, config.seed)
        logs = np.log(np.asarray(losses, np.float64)) - math.log(baseline)
        rows.append(np.clip(np.nan_to_num(logs, nan=WORST), -WORST, WORST))
    return np.stack(rows)


def policy_losses(
    theta: Theta,
    family: TaskFamily,
    candidates: Mapping[str, jax.Array],
    total_steps: int,
    key: jax.Array,
) -> jax.Array:
    """Return the held-out loss (n,) after runs under n policies, from one initial network."""
    return _policy_losses(_Static(theta), family, dict(candidates), jnp.int32(total_steps), key)


class _Static:
    """A theta as a static argument: equal if its numbers are."""

    def __init__(self, theta: Theta) -> None:
        self.theta = theta

    def __hash__(self) -> int:
        return hash(self.theta.sha256)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and other.theta.sha256 == self.theta.sha256


@functools.partial(jax.jit, static_argnums=0)
def _policy_losses(
    static: _Static,
    family: TaskFamily,
    candidates: dict[str, jax.Array],
    total_steps: jax.Array,
    key: jax.Array,
) -> jax.Array:
    def loss(numbers: dict[str, jax.Array]) -> jax.Array:
        theta = dataclasses.replace(static.theta, policy=Policy.of(numbers))
        return _trained(family, celo2(total_steps=total_steps, theta=theta), total_steps, key)

    return jax.vmap(loss)(candidates)


@jax.jit
def _adamw_losses(
    family: TaskFamily, learning_rates: jax.Array, total_steps: jax.Array, key: jax.Array
) -> jax.Array:
    def loss(learning_rate: jax.Array) -> jax.Array:
        def schedule(count: Any) -> Any:
            return learning_rate * warmup_cosine((count + 0.5) / total_steps)

        return _trained(family, optax.adamw(schedule, weight_decay=0.0), total_steps, key)

    return jax.vmap(loss)(learning_rates)


def _trained(
    family: TaskFamily,
    optimizer: optax.GradientTransformation,
    total_steps: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Train a network for `total_steps`, which may be traced, and return its held-out loss."""
    task_key, params_key, batch_key, held_out_key = jax.random.split(key, 4)
    task = family.sample(task_key)
    params, model_state = family.init(params_key, task)
    gradient = jax.grad(family.loss, has_aux=True)

    def step(i: jax.Array, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        params, model_state, state = carry
        batch = jax.random.fold_in(batch_key, i)
        grads, model_state = gradient(params, model_state, task, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), model_state, state

    first = params, model_state, optimizer.init(params)
    params, model_state, _ = jax.lax.fori_loop(0, total_steps, step, first)
    losses = []
    for batch in jax.random.split(held_out_key, HELD_OUT_BATCHES):
        losses.append(family.evaluate(params, model_state, task, batch)["loss"])
    return jnp.stack(losses).mean()


def _baseline(folder: Path, name: str, family: TaskFamily, horizon: int, seed: int) -> float:
    """Return the loss of AdamW at its best learning rate, computed once and kept in the folder."""
    path = folder / "adamw.jsonl"
    for line in read_lines(path) if path.exists() else ():
        if (line["task"], line["horizon"]) == (name, horizon):
            return line["loss"]
    rates = jnp.asarray(ADAMW_LEARNING_RATES)
    losses = _adamw_losses(family, rates, jnp.int32(horizon), jax.random.key(seed))
    best = int(jnp.nanargmin(losses))
    record = {"task": name, "horizon": horizon, "loss": float(losses[best])}
    append_line(path, record | {"learning_rate": ADAMW_LEARNING_RATES[best]})
    return record["loss"]


def _claim(
    folder: Path,
    config: PolicySearch,
    theta: Theta,
    start: Mapping[str, float],
    tasks: Mapping[str, TaskFamily],
) -> None:
    """Bind the folder to the configuration; `generations` may grow."""
    settings = dataclasses.asdict(config) | {"horizons": list(config.horizons)}
    new = settings | {"theta": theta.identity, "start": dict(start), "tasks": list(tasks)}
    path = folder / "config.jsonl"
    del new["generations"]
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        append_line(path, new)
    (old,) = read_lines(path)
    changed = [name for name in new if old.get(name) != new[name]]
    if changed:
        raise InputError(
            f"{folder} holds a search with another {', '.join(changed)}; give another folder"
        )


def _save(folder: Path, state: Any, generations: int) -> None:
    arrays = {"generations": np.asarray(generations)}
    for i, leaf in enumerate(jax.tree.leaves(state)):
        arrays[str(i)] = np.asarray(leaf)
    write_arrays(folder / "state.npz", arrays)


def _restored(folder: Path, state: Any) -> tuple[Any, int]:
    """Return the saved state and the number of its generations, or the state itself and 0."""
    path = folder / "state.npz"
    if not path.exists():
        return state, 0
    arrays = read_arrays(path, "delete its folder, or give another")
    leaves, structure = jax.tree.flatten(state)
    loaded = [jnp.asarray(arrays[str(i)]) for i in range(len(leaves))]
    return structure.unflatten(loaded), int(arrays["generations"])
