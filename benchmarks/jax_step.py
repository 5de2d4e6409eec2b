"""Step time, compile time and memory in JAX: Celo2, optax.contrib.muon and optax.adamw.

Run: python -m benchmarks.jax_step. Only parameters of the shapes of GPT-2 small and random
gradients are made, with few of its twelve layers; buffers are donated. All optimizers take turns in
one process: tables show medians. Hidden matrices get the rule that is measured, the rest AdamW; all
take as many Newton-Schulz iterations in float32. Compile time is processor time, which other work
on the machine disturbs least. Writes records/speed/jax-step.json; `celo2 report` writes the table
of docs/costs.md.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro
from optax.contrib import MuonDimensionNumbers

from benchmarks.provenance import provenance
from celo2.files import write_json
from celo2.jax import celo2, route
from celo2.parameters.routing import CELO2

WIDTH, VOCABULARY, CONTEXT = 768, 50257, 1024


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Time optimizer steps in JAX on the shapes of GPT-2 small."""

    layers: int = 2
    """Of GPT-2's twelve."""
    repeats: int = 5
    """Turns that count; one more warms up."""
    out: Path = Path("records/speed/jax-step.json")
    """Where results are written."""


def shapes(layers: int) -> dict[str, Any]:
    """Return the shapes of GPT-2 small with tied embeddings, matrices as (in, out)."""

    def dense(into: int, out: int) -> dict[str, tuple[int, ...]]:
        return {"kernel": (into, out), "bias": (out,)}

    norm = {"scale": (WIDTH,), "bias": (WIDTH,)}
    block = {
        "ln_1": norm,
        "attn": {"c_attn": dense(WIDTH, 3 * WIDTH), "c_proj": dense(WIDTH, WIDTH)},
        "ln_2": norm,
        "mlp": {"c_fc": dense(WIDTH, 4 * WIDTH), "c_proj": dense(4 * WIDTH, WIDTH)},
    }
    tables = {"wte": {"embedding": (VOCABULARY, WIDTH)}, "wpe": {"embedding": (CONTEXT, WIDTH)}}
    return {**tables, "h": {str(i): block for i in range(layers)}, "ln_f": norm}


def draw(layers: int, scale: float) -> Any:
    """Return random arrays of these shapes."""

    def is_shape(x: Any) -> bool:
        return isinstance(x, tuple)

    leaves, structure = jax.tree.flatten(shapes(layers), is_leaf=is_shape)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    arrays = []
    for key, shape in zip(keys, leaves, strict=True):
        arrays.append(scale * jax.random.normal(key, shape))
    return structure.unflatten(arrays)


def muon_axes(params: Any) -> Any:
    """Return the axes of matrices for Muon, which updates the same ones as Celo2; None: AdamW."""
    axes = []
    for each in route(params):
        axes.append(MuonDimensionNumbers(0, 1) if each.rule == CELO2 else None)
    return jax.tree.structure(params).unflatten(axes)


OPTIMIZERS = {
    "celo2": lambda: celo2(1e-3),
    "muon": lambda: optax.contrib.muon(1e-3, muon_weight_dimension_numbers=muon_axes),
    "adamw": lambda: optax.adamw(1e-3),
}


class Candidate:
    """One optimizer with its compiled step and its own parameters and state."""

    def __init__(self, name: str, layers: int) -> None:
        optimizer = OPTIMIZERS[name]()

        def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self.params = draw(layers, 0.02)
        self.state = optimizer.init(self.params)
        began = time.perf_counter(), time.process_time()
        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(self.params, self.state, self.params)
        self.step = lowered.compile()
        self.compile_seconds = time.perf_counter() - began[0]
        self.compile_processor_seconds = time.process_time() - began[1]
        self.seconds: list[float] = []

    def take_turn(self, grads: Any) -> None:
        """Take a step and time it."""
        began = time.perf_counter()
        self.params, self.state = self.step(self.params, self.state, grads)
        jax.block_until_ready(self.params)
        self.seconds.append(time.perf_counter() - began)

    def result(self) -> dict[str, Any]:
        """Return what was measured; the first turn warms up."""
        memory = self.step.memory_analysis()
        assert memory is not None
        return {
            "seconds": self.seconds[1:],
            "median": statistics.median(self.seconds[1:]),
            "compile_seconds": self.compile_seconds,
            "compile_processor_seconds": self.compile_processor_seconds,
            "state_bytes": sum(x.nbytes for x in jax.tree.leaves(self.state)),
            "temporary_bytes": memory.temp_size_in_bytes,
        }


def main(config: Benchmark) -> None:
    """Measure, print, save."""
    jax.jit(jnp.sin)(1.0)  # what the first compilation loads belongs to none of them
    candidates = {name: Candidate(name, config.layers) for name in OPTIMIZERS}
    grads = draw(config.layers, 0.01)
    for turn in range(config.repeats + 1):
        for candidate in candidates.values():
            candidate.take_turn(grads)
        print(f"turn {turn} of {config.repeats}", flush=True)
    results = {name: candidate.result() for name, candidate in candidates.items()}
    origin = {**provenance(), "jax": jax.__version__, "optax": optax.__version__}
    write_json(config.out, {"layers": config.layers, "origin": origin, "results": results})
    for name, result in results.items():
        print(name, {key: value for key, value in result.items() if key != "seconds"})


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
