"""Results as tables, as a picture, and as the README's table."""

from __future__ import annotations

import itertools
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from rich.box import SIMPLE
from rich.table import Table

from benchmarks.optimizer_step.measure import Measurement

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LABELS: dict[str, str] = {
    "adamw": "AdamW, fused (`torch.optim`)",
    "muon": "Muon, Newton-Schulz in bfloat16 (`torch.optim`)",
    "muon-float32": "Muon, Newton-Schulz in float32",
    "celo2": "Celo2, compiled",
    "celo2-bf16": "Celo2, compiled, state and Newton-Schulz in bfloat16",
    "celo2-base": "Celo2-base, compiled",
    "celo2-eager": "Celo2, eager",
    "naive": "Celo2 in the naive form",
    "celo2-no-ns": "Celo2, compiled, without Newton-Schulz",
    "naive-no-ns": "The naive form without Newton-Schulz",
}
"""For the README; the two without Newton-Schulz are measured for their ratio and stay out of its table."""
BASELINE = "muon"
"""What the bars of the picture are ratios to."""
REFERENCES = ("muon", "muon-float32", "adamw")
"""What all times are set against."""
PAIRS = (
    ("celo2", "muon-float32"),
    ("celo2", "muon"),
    ("celo2-bf16", "muon"),
    ("celo2", "adamw"),
    ("naive", "celo2"),
    ("naive-no-ns", "celo2-no-ns"),
)
"""Optimizers that are compared turn by turn as well, which cancels what slows the machine down for a while."""


def load(path: Path) -> tuple[dict[str, Any], list[Measurement]]:
    """What a run saved: how it was measured, and what."""
    content = json.loads(path.read_text())
    return content, [Measurement(**m) for m in content.pop("measurements")]


Settings = dict[tuple[str, str], dict[str, Measurement]]


def by_setting(found: Sequence[Measurement]) -> Settings:
    """{(model, dtype): {optimizer: its measurement}}."""
    result: Settings = {}
    for m in found:
        result.setdefault((m.model, m.dtype), {})[m.optimizer] = m
    return result


def ratio(m: Measurement, to: Measurement | None) -> str:
    """Of medians, where there is the other one."""
    return f"{m.median / to.median:.2f}" if to else "-"


def tables(found: Sequence[Measurement]) -> Iterator[Table]:
    """Everything but the single turns, a table for each setting."""
    for (model, dtype), setting in by_setting(found).items():
        columns = (
            "first step, s",
            "step, ms",
            *(f"over {to}" for to in REFERENCES),
            "state, bytes an entry",
            "temporaries, MB",
        )
        table = Table("optimizer", *columns, box=SIMPLE, title=f"{model}, {dtype}: medians, ratios of medians")
        for name, m in setting.items():
            ratios = [ratio(m, setting.get(to)) for to in REFERENCES]
            memory = f"{m.bytes_an_entry:.1f}", f"{m.temporary_bytes / 1e6:.0f}"
            table.add_row(name, f"{m.first_step_seconds:.1f}", f"{1e3 * m.median:.1f}", *ratios, *memory)
        yield table


def paired(found: Sequence[Measurement]) -> Table:
    """Of pairs, the median of the ratios of each turn beside the ratio of medians."""
    table = Table("setting", "pair", "ratio of medians", "median of ratios", box=SIMPLE)
    for (model, dtype), setting in by_setting(found).items():
        for a, b in PAIRS:
            if a in setting and b in setting:
                ratios = [x / y for x, y in zip(setting[a].seconds, setting[b].seconds, strict=True)]
                by_turn = f"{statistics.median(ratios):.2f}"
                table.add_row(f"{model}, {dtype}", f"{a} / {b}", ratio(setting[a], setting[b]), by_turn)
    return table


def draw(found: Sequence[Measurement], path: Path) -> None:
    """A bar for each optimizer from Muon's time to its own, on a logarithmic scale: right of the line it is slower."""
    settings = by_setting(found)
    models, dtypes = (list(dict.fromkeys(key[i] for key in settings)) for i in (0, 1))
    size = (4.2 * len(models) + 1.2, 0.6 + 3.2 * len(dtypes))
    figure, axes = plt.subplots(
        len(dtypes), len(models), figsize=size, layout="constrained", squeeze=False, sharex=True, sharey=True
    )
    for (row, dtype), (column, model) in itertools.product(enumerate(dtypes), enumerate(models)):
        plot, setting = axes[row, column], settings[model, dtype]
        ratios = [m.median / setting[BASELINE].median for m in setting.values()]
        colours = ["C0" if name.startswith("celo2") else "C7" for name in setting]
        bars = plot.barh(list(setting), [r - 1 for r in ratios], left=1, color=colours)
        plot.bar_label(bars, [f"{r:.2f}" for r in ratios], padding=3, fontsize=8)
        plot.axvline(1, color="black", lw=0.8)
        plot.set(xscale="log", title=f"{model}, {dtype}")
        plot.spines[["top", "right"]].set_visible(False)
        if row == len(dtypes) - 1:
            plot.set_xlabel(f"step time over {BASELINE}'s")
    extremes = [m.median / settings[m.model, m.dtype][BASELINE].median for m in found]
    axes[0, 0].set_xlim(min(extremes) / 1.6, max(extremes) * 1.6)
    axes[0, 0].xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes[0, 0].invert_yaxis()
    temporary = path.with_suffix(".part.png")
    figure.savefig(temporary, dpi=130)
    plt.close(figure)
    os.replace(temporary, path)


def markdown(origin: dict[str, Any], found: Sequence[Measurement]) -> str:
    """The README's table, of GPT-2 small in float32.

    Raises:
        KeyError: that was not measured.
    """
    setting = by_setting(found)["gpt2-small", "float32"]
    cut = f" cut to {origin['layers']} of 12 layers" if origin["layers"] else ""
    lines = [
        f"| | bytes of state an entry | step of GPT-2 small{cut} | over Muon in float32 | over AdamW |",
        "|---|---|---|---|---|",
    ]
    for name, m in setting.items():
        if not name.endswith("no-ns"):
            ratios = " | ".join(ratio(m, setting.get(to)) for to in ("muon-float32", "adamw"))
            lines.append(f"| {LABELS[name]} | {m.bytes_an_entry:.1f} | {1e3 * m.median:,.0f} ms | {ratios} |")
    return "\n".join(lines)
