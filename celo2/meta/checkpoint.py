"""The folder of a meta-training run: its state is replaced at once, bound to its configuration."""

from __future__ import annotations

import dataclasses
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
from celo2.meta.config import MetaConfig
from celo2.rule import Weights
from celo2.tasks.base import TaskFamily

State = TypeVar("State")

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
        new = settings(config) | {"data": _fingerprint(families)}
        if path.exists():
            # Settings added since this run was saved are assumed to have had today's default.
            old = settings(MetaConfig(estimator=type(config.estimator)())) | _read_config(path)
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
        arrays = read_arrays(self._state, REMEDY)
        saved = jax.tree_util.tree_map_with_path(
            lambda path, _: arrays[jax.tree_util.keystr(path)], state
        )
        iteration, seconds = int(arrays[".iteration"]), float(arrays["seconds"])
        if self._writes:
            self._forget_after(iteration)
        return saved, seconds

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

    def _forget_after(self, iteration: int) -> None:
        """Drop the metrics of iterations that will be run again."""
        if self._metrics.exists():
            lines = self._metrics.read_bytes().splitlines(keepends=True)
            write(self._metrics, b"".join(lines[:iteration]))


def settings(config: MetaConfig) -> dict[str, Any]:
    """Return the configuration as flat JSON: dotted names to numbers, words and lists.

    The kind of the estimator is one of them.
    """

    def flat(prefix: str, value: Any) -> dict[str, Any]:
        if not dataclasses.is_dataclass(value):
            return {prefix: list(value) if isinstance(value, tuple) else value}
        kind = {"estimator": type(value).__name__} if prefix == "estimator" else {}
        parts = [
            flat(f"{prefix}.{f.name}".lstrip("."), getattr(value, f.name))
            for f in dataclasses.fields(value)
        ]
        return kind | {key: entry for part in parts for key, entry in part.items()}

    return flat("", config)


def theta_of(directory: Path) -> tuple[Weights, float]:
    """Return theta and the seconds spent, as last saved by the run in `directory`."""
    arrays = read_arrays(directory / "state.npz", REMEDY)
    weights = {name: arrays[f".theta.{name}"] for name in Weights._fields}
    return Weights(**weights), float(arrays["seconds"])


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes().decode())
    except ValueError as error:  # not UTF-8, or not JSON
        raise InputError(f"{path} is damaged ({error}); {REMEDY}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no configuration; {REMEDY}")
    return config


def _fingerprint(families: Sequence[TaskFamily]) -> str:
    """Of the families and the data that they hold."""
    leaves, structure = jax.tree.flatten(
        list(families)
    )  # the structure names classes and their static fields
    digest = hashlib.sha256(
        str([structure, *((leaf.shape, leaf.dtype) for leaf in leaves)]).encode()
    )
    for leaf in leaves:
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
