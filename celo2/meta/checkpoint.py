"""The folder of a meta-training run: its state is replaced at once, bound to its configuration."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from celo2.errors import InputError
from celo2.files import append_line, read_arrays, write, write_arrays, write_json
from celo2.meta.config import MetaConfig, to_settings
from celo2.rule import Weights
from celo2.tasks.base import TaskFamily
from celo2.theta import load_theta

State = TypeVar("State")

RULE = Weights(*Weights._fields)
"""The structure of the rule's theta."""
REMEDY = "delete its folder, or give another"


class Checkpoint:
    """`state.npz`, `config.json` and `metrics.jsonl` of one run.

    All processes read it, the first one writes.

    Raises:
        InputError: the directory holds a run of another configuration or on other data, which the
            message names; or a file of it is damaged.
    """

    def __init__(self, directory: Path, config: MetaConfig, families: Sequence[TaskFamily]) -> None:
        self._state = directory / "state.npz"
        self._metrics = directory / "metrics.jsonl"
        self._writes = jax.process_index() == 0
        path = directory / "config.json"
        new = to_settings(config) | {"data": _fingerprint(families)}
        if config.inner.policy is not None:  # a file may be written anew, and acts on every step
            policy = load_theta(config.inner.policy).required_policy()
            new |= {f"policy.{name}": value for name, value in policy.numbers().items()}
        if path.exists():
            # Settings added since this run was saved are assumed to have had today's default.
            old = to_settings(MetaConfig(estimator=type(config.estimator)())) | _read_config(path)
            changed = [
                f"{key} was {old.get(key, 'absent')}, now {new.get(key, 'absent')}"
                for key in sorted({*old, *new})
                if old.get(key) != new.get(key)
            ]
            if changed:
                differences = "; ".join(changed)
                raise InputError(
                    f"{directory} holds a run with another configuration ({differences}); "
                    "give another folder"
                )
        elif self._writes:
            write_json(path, new)

    def restore(self, state: State) -> tuple[State, float]:
        """Return the saved state in the structure of `state`, and the seconds spent so far.

        Where none was saved, `state` itself is returned.

        Raises:
            InputError: the saved state is damaged.
        """
        if not self._state.exists():
            if self._writes:
                self._metrics.unlink(missing_ok=True)
            return state, 0.0
        paths, structure = jax.tree_util.tree_flatten_with_path(state)
        names = [jax.tree_util.keystr(path) for path, _ in paths]
        step, seconds, *leaves = _read(self._state, [".step", "seconds", *names])
        if self._writes:
            self._forget_after(int(step))
        return structure.unflatten(leaves), float(seconds)

    def save(self, state: Any, seconds: float) -> None:
        """Replace the saved state."""
        if self._writes:
            arrays = {"seconds": np.asarray(seconds, np.float64)}
            for path, leaf in jax.tree_util.tree_leaves_with_path(state):
                arrays[jax.tree_util.keystr(path)] = np.asarray(leaf)
            write_arrays(self._state, arrays)

    def record(self, metrics: dict[str, float]) -> None:
        """Append one line of metrics; null stands for what is not finite."""
        if self._writes:
            finite = {k: value if math.isfinite(value) else None for k, value in metrics.items()}
            append_line(self._metrics, finite)

    def _forget_after(self, step: int) -> None:
        """Drop the metrics of outer steps that will be run again."""
        if self._metrics.exists():
            lines = self._metrics.read_bytes().splitlines(keepends=True)
            write(self._metrics, b"".join(lines[:step]))


def theta_of(directory: Path, like: Any = RULE) -> tuple[Any, float]:
    """Return theta and the seconds spent, as last saved by the run in `directory`.

    `like` is a pytree of its structure, by default `celo2.rule.Weights`.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [f".theta{jax.tree_util.keystr(path)}" for path, _ in paths]
    *weights, seconds = _read(directory / "state.npz", [*names, "seconds"])
    return structure.unflatten(weights), float(seconds)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes().decode())
    except ValueError as error:  # not UTF-8, or not JSON
        raise InputError(f"{path} is damaged ({error}); {REMEDY}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no configuration; {REMEDY}")
    return config


def _read(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Read arrays of a saved state by name."""
    arrays = read_arrays(path, REMEDY)
    for name in names:
        if name not in arrays:
            raise InputError(f"{path} lacks {name}; {REMEDY}")
    return [arrays[name] for name in names]


def _fingerprint(families: Sequence[TaskFamily]) -> str:
    """Hash the families and the data that they hold."""
    leaves, structure = jax.tree.flatten(list(families))
    shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]
    # The structure names the classes and their static fields.
    digest = hashlib.sha256(str([structure, *shapes]).encode())
    for leaf in leaves:
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
