"""Where a meta-training run keeps its state: replaced as a whole, never half-written, bound to its configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from celo2.errors import InputError
from celo2.meta.config import MetaConfig
from celo2.rule import Weights
from celo2.tasks.base import TaskFamily

State = TypeVar("State")


class Checkpoint:
    """`state.npz`, `config.json` and `metrics.jsonl` of one run. All processes read it, the first one writes.

    Raises:
        InputError: the directory holds a run of another configuration or on other data; the message names the differences.
    """

    def __init__(self, directory: Path, config: MetaConfig, families: Sequence[TaskFamily]) -> None:
        self._state = directory / "state.npz"
        self._metrics = directory / "metrics.jsonl"
        self._writes = jax.process_index() == 0
        path = directory / "config.json"
        new = settings(config) | {"data": _fingerprint(families)}
        if path.exists():
            # A setting that the run's version did not have yet was what is the default now.
            old = settings(MetaConfig(estimator=type(config.estimator)())) | json.loads(
                path.read_text()
            )
            changed = [
                f"{key} was {old.get(key, 'absent')}, now {new.get(key, 'absent')}"
                for key in sorted({*old, *new})
                if old.get(key) != new.get(key)
            ]
            if changed:
                raise InputError(
                    f"{directory} holds a run with another configuration ({'; '.join(changed)}); give another --out"
                )
        elif self._writes:
            directory.mkdir(parents=True, exist_ok=True)
            _replace(path, json.dumps(new, indent=2).encode())

    def restore(self, state: State) -> tuple[State, float]:
        """(the saved state in the structure of `state`, seconds spent so far), or `state` itself where none was saved."""
        if not self._state.exists():
            if self._writes:
                self._metrics.unlink(missing_ok=True)
            return state, 0.0
        with np.load(self._state) as file:
            saved = jax.tree_util.tree_map_with_path(
                lambda path, _: file[jax.tree_util.keystr(path)], state
            )
            iteration, seconds = int(file[".iteration"]), float(file["seconds"])
        if self._writes:
            self._forget_after(iteration)
        return saved, seconds

    def save(self, state: Any, seconds: float) -> None:
        """Replace the saved state."""
        if self._writes:
            leaves = {
                jax.tree_util.keystr(path): np.asarray(leaf)
                for path, leaf in jax.tree_util.tree_leaves_with_path(state)
            }
            temporary = self._state.with_suffix(".part.npz")
            np.savez(temporary, allow_pickle=False, seconds=np.float64(seconds), **leaves)
            os.replace(temporary, self._state)

    def record(self, metrics: dict[str, float]) -> None:
        """Append one line of metrics; null stands for what is not finite."""
        if self._writes:
            with self._metrics.open("a") as file:
                finite = {
                    name: value if math.isfinite(value) else None for name, value in metrics.items()
                }
                file.write(json.dumps(finite, allow_nan=False) + "\n")

    def _forget_after(self, iteration: int) -> None:
        """Drop the metrics of iterations that will be run again."""
        if self._metrics.exists():
            lines = self._metrics.read_text().splitlines(keepends=True)
            _replace(self._metrics, "".join(lines[:iteration]).encode())


def settings(config: MetaConfig) -> dict[str, Any]:
    """The configuration as flat JSON: dotted names to numbers, words and lists; the estimator's kind is one of them."""

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
    """(theta, seconds spent) as last saved by the run in `directory`."""
    with np.load(directory / "state.npz") as file:
        return Weights(**{name: file[f".theta.{name}"] for name in Weights._fields}), float(
            file["seconds"]
        )


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


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    os.replace(temporary, path)
