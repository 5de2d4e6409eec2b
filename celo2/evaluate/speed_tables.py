"""The tables of records/speed: time and memory of a step, in PyTorch, JAX and meta-training."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from celo2.evaluate.suites import VALIDATION
from celo2.evaluate.tables import Table

SHOWN = {
    "adamw": "AdamW, fused (`torch.optim`)",
    "muon": "Muon, Newton-Schulz in bfloat16 (`torch.optim`)",
    "muon-float32": "Muon, Newton-Schulz in float32",
    "celo2": "Celo2, compiled",
    "celo2-bf16": "Celo2, compiled, state and Newton-Schulz in bfloat16",
    "celo2-lean": "Celo2-lean, compiled",
    "celo2-base": "Celo2-base, compiled",
    "celo2-eager": "Celo2, eager",
}
"""Optimizers of the table of one model; others are measured for their ratios."""
MODEL = ("gpt2-small", "float32")
"""Which model that is."""
COMPARED = (
    ("celo2", "muon-float32"),
    ("celo2", "muon"),
    ("celo2-bf16", "muon"),
    ("celo2", "adamw"),
)
"""Whose times are divided by whose, for every model."""
OPTAX = {"celo2": "Celo2", "muon": "Muon (`optax.contrib`)", "adamw": "AdamW (`optax`)"}
UNROLLS = {
    "naive": "naive",
    "naive, sharded": "naive, sharded over the cores",
    "celo2, one device": "celo2, one device",
    "celo2": "celo2",
}
PARTS = {
    "Newton-Schulz by autodiff": "all of it, Newton-Schulz differentiated by JAX",
    "all": "all of it",
    "without Newton-Schulz": "without Newton-Schulz",
    "and without the MLP": "without Newton-Schulz and the MLP",
    "gradient descent": "gradient descent, the network's own part",
}


def optimizer_step(root: Path) -> Table:
    """Return the step of every optimizer on GPT-2 small in float32."""
    settings = _load(root, "optimizer-step")["settings"]
    (setting,) = [each for each in settings if (each["model"], each["dtype"]) == MODEL]
    found, rows = _medians(setting), []
    for m in setting["measurements"]:
        name = m["optimizer"]
        if name not in SHOWN:
            continue
        cells = (
            f"{m['state_bytes'] / m['parameters']:.1f}",
            f"{1e3 * found[name]:,.0f} ms",
            f"{found[name] / found['muon-float32']:.2f}",
            f"{found[name] / found['adamw']:.2f}",
            f"{m['first_step_seconds']:.1f} s",
        )
        rows.append((SHOWN[name], *cells))
    header = ("", "bytes of state per parameter", "step of GPT-2 small", "over Muon in float32")
    return Table((*header, "over AdamW", "first step"), rows)


def optimizer_step_ratios(root: Path) -> Table:
    """Return ratios of median step times, for each model and dtype of its parameters."""
    rows = []
    for setting in _load(root, "optimizer-step")["settings"]:
        found = _medians(setting)
        cells = [f"{found[name] / found[other]:.2f}" for name, other in COMPARED]
        rows.append((f"{setting['model']}, {setting['dtype']}", *cells))
    return Table(("", *map(" / ".join, COMPARED)), rows)


def gpt3_xl(root: Path) -> Table:
    """Return the memory of a training step of GPT-3 XL."""
    recorded = _load(root, "gpt3-xl")
    cells = (
        f"{recorded['parameters'] / 1e9:.2f} billion",
        f"{recorded['state_bytes'] / recorded['parameters']:.1f}",
        f"{recorded['peak_resident_bytes'] / 2**30:.1f} GiB",
        f"{recorded['largest_child_bytes'] / 2**30:.1f} GiB",
    )
    header = ("", "parameters", "bytes of state per parameter", "peak memory of training")
    return Table((*header, "of the largest compiler"), [("GPT-3 XL in bfloat16", *cells)])


def jax_step(root: Path) -> Table:
    """Return medians, and medians of the ratios to Muon turn by turn."""
    recorded = _load(root, "jax-step")
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
        rows.append((OPTAX[name], *cells))
    layers = f"{recorded['layers']} of 12 layers"
    header = (f"GPT-2 small, {layers}, float32", "step over Muon's", "compile, processor time")
    return Table((*header, "over Muon's", "state", "temporaries"), rows)


def guard_cost(root: Path) -> Table:
    """Return what the guard adds to a step, beside a second measurement without it."""
    rows = []
    for row in _load(root, "guard")["rows"]:
        cells = (f"{row['milliseconds']:.0f} ms", f"{row['guard']:.3f}", f"{row['again']:.3f}")
        rows.append((row["model"], row["rule"], *cells))
    return Table(
        ("hidden matrices of", "rule", "step without", "with it", "without it again"), rows
    )


def side_by_side(root: Path) -> Table:
    """Return the time of a sweep as one program, over its runs one after the other."""
    recorded = _load(root, "side-by-side")
    rows = []
    for row in recorded["rows"]:
        title = VALIDATION[row["problem"]].title
        rows.append((title, row["optimizer"], f"{row['ratio']:.2f}"))
    header = f"{recorded['runs']} runs at once over one after the other, {recorded['device']}"
    return Table(("", "optimizer", header), rows)


def meta_speed(root: Path) -> Table:
    """Return inner steps per second of meta-training beside the naive baseline."""
    rows = []
    for count, speeds in _load(root, "meta-speed")["steps per second"].items():
        for kind, label in (("forward", "forward"), ("gradients", "with gradients")):
            found = [speeds[f"{way} {kind}"] for way in UNROLLS]
            cells = [f"{speed:,.0f}" for speed in found]
            rows.append((count, label, *cells, f"{found[-1] / found[0]:.1f}"))
    return Table(("trajectories", "", *UNROLLS.values(), "celo2 / naive"), rows)


def meta_parts(root: Path) -> Table:
    """Return the time of an inner step with gradients as parts of it are left out."""
    microseconds = _load(root, "meta-speed")["profile"]["microseconds"]
    rows = [(label, f"{microseconds[name]:.0f} μs") for name, label in PARTS.items()]
    return Table(("an inner step with gradients, 8 trajectories", "time"), rows)


def _load(root: Path, name: str) -> Any:
    return json.loads((root / f"records/speed/{name}.json").read_text())


def _medians(setting: Any) -> dict[str, float]:
    """Return the median seconds of a step of each optimizer."""
    return {m["optimizer"]: statistics.median(m["seconds"]) for m in setting["measurements"]}
