"""Fine-tuning: a network that was trained on some classes learns others from few examples."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo2.data.cache import cache
from celo2.data.images import LabeledSet
from celo2.files import read_arrays, write_arrays
from celo2.tasks import batch_norm, layers
from celo2.tasks.base import Metrics, ModelState, Params, TaskFamily

LEARNING_RATE = 3e-3
"""AdamW's in pretraining, with cosine decay."""
HEAD = "head."
"""Parameters whose names begin like this are initialized anew."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FineTuning:
    """A family whose networks start from given parameters and model state, the head excepted."""

    family: TaskFamily
    params: Params
    state: ModelState

    def sample(self, key: jax.Array) -> Any:
        return self.family.sample(key)

    def init(self, key: jax.Array, task: Any) -> tuple[Params, ModelState]:
        fresh, _ = self.family.init(key, task)
        params = {}
        for name, value in fresh.items():
            params[name] = value if name.startswith(HEAD) else self.params[name]
        return params, self.state

    def loss(
        self, params: Params, state: ModelState, task: Any, key: jax.Array
    ) -> tuple[jax.Array, ModelState]:
        return self.family.loss(params, state, task, key)

    def evaluate(self, params: Params, state: ModelState, task: Any, key: jax.Array) -> Metrics:
        return self.family.evaluate(params, state, task, key)


def pretrained(family: TaskFamily, steps: int) -> tuple[Params, ModelState]:
    """Train a network by AdamW from a fixed seed, or read it from the cache.

    The file is named by a hash of the data, the source of the network and of this file, the
    settings and the version of JAX.
    """
    keys = jax.random.split(jax.random.key(0), 3)
    network = jax.jit(family.init)(keys[1], family.sample(keys[0]))
    leaves, structure = jax.tree.flatten(network)
    path = cache() / "pretrained" / f"{_hash(family, steps)}.npz"
    if not path.exists():
        trained = jax.tree.leaves(_train(family, network, keys, steps))
        write_arrays(path, {f"{i:03}": np.asarray(leaf) for i, leaf in enumerate(trained)})
    arrays = read_arrays(path, "delete it")
    return jax.tree.unflatten(
        structure, [jnp.asarray(arrays[f"{i:03}"]) for i in range(len(leaves))]
    )


@functools.partial(jax.jit, static_argnums=3)
def _train(family: TaskFamily, network: Any, keys: jax.Array, steps: int) -> Any:
    task = family.sample(keys[0])
    transform = optax.adamw(optax.cosine_decay_schedule(LEARNING_RATE, steps))

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        (params, model_state), state = carry
        (_, model_state), grads = jax.value_and_grad(family.loss, has_aux=True)(
            params, model_state, task, key
        )
        updates, state = transform.update(grads, state, params)
        return ((optax.apply_updates(params, updates), model_state), state), None

    first = network, transform.init(network[0])
    (network, _), _ = jax.lax.scan(step, first, jax.random.split(keys[2], steps))
    return network


def _hash(family: TaskFamily, steps: int) -> str:
    """Hash everything that decides the pretrained network."""
    arrays, structure = jax.tree.flatten(family)
    digest = hashlib.sha256(f"{structure} {steps} {jax.__version__}".encode())
    for module in (batch_norm, layers, inspect.getmodule(pretrained)):
        digest.update(inspect.getsource(module).encode())  # type: ignore[arg-type]
    for array in arrays:
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()[:16]


def classes_of(data: LabeledSet, classes: range, each: int | None = None) -> LabeledSet:
    """Select images of some classes, the first `each` of every class or all, labeled from 0 on."""
    kept = []
    for label in classes:
        kept.append(np.flatnonzero(data.labels == label)[:each])
    index = np.sort(np.concatenate(kept))
    labels = data.labels[index] - classes.start
    return LabeledSet(data.name, data.images[index], labels, len(classes))
