"""Where a meta-training run keeps its state: replaced as a whole, never half-written, bound to its configuration."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from celo2.errors import InputError
from celo2.meta.config import MetaConfig

State = TypeVar("State")


class Checkpoint:
    """`state.npz`, `config.json` and `metrics.jsonl` of one run.

    Raises:
        InputError: the directory holds a run of another configuration; the message names the differences.
    """

    def __init__(self, directory: Path, config: MetaConfig) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._state = directory / "state.npz"
        self._metrics = directory / "metrics.jsonl"
        path = directory / "config.json"
        new = json.loads(json.dumps(dataclasses.asdict(config)))
        if path.exists():
            old = json.loads(path.read_text())
            changed = [
                f"{key} was {old.get(key)}, now {new.get(key)}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)
            ]
            if changed:
                raise InputError(
                    f"{directory} holds a run with another configuration ({'; '.join(changed)}); give another --out"
                )
        else:
            _replace(path, json.dumps(new, indent=2).encode())

    def restore(self, state: State) -> tuple[State, float]:
        """(the saved state in the structure of `state`, seconds spent so far), or `state` itself where none was saved."""
        if not self._state.exists():
            self._metrics.unlink(missing_ok=True)
            return state, 0.0
        leaves, treedef = jax.tree.flatten(state)
        with np.load(self._state) as file:
            saved = [jax.numpy.asarray(file[f"leaf{i}"]) for i in range(len(leaves))]
            iteration, seconds = int(file["iteration"]), float(file["seconds"])
        self._forget_after(iteration)
        return jax.tree.unflatten(treedef, saved), seconds

    def save(self, state: Any, seconds: float) -> None:
        """Replace the saved state."""
        leaves: dict[str, Any] = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        temporary = self._state.with_suffix(".part.npz")
        np.savez(temporary, iteration=np.asarray(state.iteration), seconds=seconds, **leaves)
        os.replace(temporary, self._state)

    def record(self, metrics: dict[str, float]) -> None:
        """Append one line of metrics."""
        with self._metrics.open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    def _forget_after(self, iteration: int) -> None:
        """Drop the metrics of iterations that will be run again."""
        if self._metrics.exists():
            lines = self._metrics.read_text().splitlines(keepends=True)
            _replace(self._metrics, "".join(lines[:iteration]).encode())


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    os.replace(temporary, path)
