"""The table of step time, compile time and memory in JAX, beside the optimizers of optax."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from celo2.evaluate.tables import Table

RECORD = "records/speed/jax-step.json"
"""Written by `python -m benchmarks.jax_step`."""
LABELS = {"celo2": "Celo2", "muon": "Muon (`optax.contrib`)", "adamw": "AdamW (`optax`)"}


def jax_step(root: Path) -> Table:
    """Return medians, and medians of the ratios to Muon turn by turn."""
    recorded = json.loads((root / RECORD).read_text())
    results, rows = recorded["results"], []
    muon = results["muon"]
    for name, result in results.items():
        ratios = [a / b for a, b in zip(result["seconds"], muon["seconds"], strict=True)]
        compiling = result["compile_processor_seconds"]
        cells = (
            f"{statistics.median(ratios):.2f}",
            f"{compiling:.1f} s",
            f"{compiling / muon['compile_processor_seconds']:.1f}",
            f"{result['state_bytes'] / 1e6:,.0f} MB",
            f"{result['temporary_bytes'] / 1e6:,.0f} MB",
        )
        rows.append((LABELS[name], *cells))
    layers = f"{recorded['layers']} of 12 layers"
    header = (f"GPT-2 small, {layers}, float32", "step over Muon's", "compile, processor time")
    return Table((*header, "over Muon's", "state", "temporaries"), tuple(rows))
