"""Results as tables, as a picture, and as the tables of docs/costs.md."""

from __future__ import annotations

import dataclasses
import io
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from rich.box import SIMPLE
from rich.table import Table

from benchmarks.optimizer_step.measure import Measurement, Setting
from benchmarks.provenance import save
from celo2.files import write

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
"""For docs/costs.md; the two without Newton-Schulz are measured for their ratio and stay out of its table."""
BASELINE = "muon"
"""What the bars of the picture are ratios to."""
MAIN = ("gpt2-small", "float32")
"""The setting that docs/costs.md shows in full."""
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

AT_LEAST = {("naive-no-ns", "celo2-no-ns"): 10.0}
"""Ratios that a run should reach: the fused step without Newton-Schulz, whose time both share."""


def load(path: Path) -> list[Setting]:
    """What runs saved; nothing where there were none. Exits with a message if the file is something else."""
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    if "settings" not in content:
        sys.exit(f"{path} holds no settings of this benchmark; give another --out")
    settings = content["settings"]
    return [
        Setting(**{**s, "measurements": [Measurement(**m) for m in s["measurements"]]})
        for s in settings
    ]


def keep(setting: Setting, path: Path) -> None:
    """Save a setting in the place of what was measured of it before."""
    others = [s for s in load(path) if (s.model, s.dtype) != (setting.model, setting.dtype)]
    save(path, {"settings": [dataclasses.asdict(s) for s in [*others, setting]]})


def ratio(m: Measurement, to: Measurement | None) -> str:
    """Of medians, where there is the other one."""
    return f"{m.median / to.median:.2f}" if to else "-"


def table(setting: Setting) -> Table:
    """Everything but the single turns."""
    columns = (
        "first step, s",
        "step, ms",
        *(f"over {to}" for to in REFERENCES),
        "state, bytes an entry",
        "temporaries, MB",
    )
    out = Table(
        "optimizer",
        *columns,
        box=SIMPLE,
        title=f"{setting.model}, {setting.dtype}: medians, ratios of medians",
    )
    for m in setting.measurements:
        ratios = [ratio(m, setting.of(to)) for to in REFERENCES]
        memory = f"{m.bytes_an_entry:.1f}", f"{m.temporary_bytes / 1e6:.0f}"
        out.add_row(
            m.optimizer, f"{m.first_step_seconds:.1f}", f"{1e3 * m.median:.1f}", *ratios, *memory
        )
    return out


def paired(setting: Setting) -> Table:
    """Return, per pair, the median of the ratios of each turn beside the ratio of medians."""
    out = Table("pair", "ratio of medians", "median of ratios", "at least", box=SIMPLE)
    for a, b in ((setting.of(a), setting.of(b)) for a, b in PAIRS):
        if a and b:
            ratios = [x / y for x, y in zip(a.seconds, b.seconds, strict=True)]
            median, bound = statistics.median(ratios), AT_LEAST.get((a.optimizer, b.optimizer))
            check = "" if bound is None else f"{bound:g}: {'yes' if median >= bound else 'no'}"
            out.add_row(f"{a.optimizer} / {b.optimizer}", ratio(a, b), f"{median:.2f}", check)
    return out


def draw(settings: Sequence[Setting], path: Path) -> None:
    """A bar for each optimizer from Muon's time to its own, on a logarithmic scale: right of the line it is slower."""
    models, dtypes = (
        list(dict.fromkeys(getattr(s, key) for s in settings)) for key in ("model", "dtype")
    )
    size = (1.2 + 4.2 * len(dtypes), 0.6 + 3.2 * len(models))
    figure, axes = plt.subplots(
        len(models), len(dtypes), figsize=size, layout="constrained", squeeze=False, sharex=True
    )
    for plot in axes.flat:
        plot.set_visible(False)
    extremes = []
    for setting in settings:
        plot, baseline = (
            axes[models.index(setting.model), dtypes.index(setting.dtype)],
            setting.of(BASELINE),
        )
        assert baseline is not None  # without it nothing is run
        names = [m.optimizer for m in setting.measurements]
        ratios = [m.median / baseline.median for m in setting.measurements]
        extremes += ratios
        colors = ["C0" if name.startswith("celo2") else "C7" for name in names]
        bars = plot.barh(names, [r - 1 for r in ratios], left=1, color=colors)
        plot.bar_label(bars, [f"{r:.2f}" for r in ratios], padding=3, fontsize=8)
        plot.axvline(1, color="black", lw=0.8)
        plot.set(
            xscale="log",
            title=f"{setting.model}, {setting.dtype}",
            xlabel=f"step time over {BASELINE}'s",
            visible=True,
        )
        plot.spines[["top", "right"]].set_visible(False)
        plot.invert_yaxis()
    axes[0, 0].set_xlim(min(extremes) / 2.5, max(extremes) * 2.5)
    axes[0, 0].xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    plt.close(figure)
    write(path, content.getvalue())


def markdown(settings: Sequence[Setting]) -> str:
    """The tables of docs/costs.md: all of GPT-2 small in float32, then the ratios of Celo2's time of each setting."""
    main = next((s for s in settings if (s.model, s.dtype) == MAIN), None)
    if main is None:
        sys.exit(f"{', '.join(MAIN)} was not measured; run it first, without --table")
    lines = [
        "| | bytes of state an entry | step of GPT-2 small | over Muon in float32 | over AdamW |",
        "|---|---|---|---|---|",
    ]
    for m in main.measurements:
        if not m.optimizer.endswith("no-ns"):
            ratios = " | ".join(ratio(m, main.of(to)) for to in ("muon-float32", "adamw"))
            label = LABELS[m.optimizer]
            lines.append(
                f"| {label} | {m.bytes_an_entry:.1f} | {1e3 * m.median:,.0f} ms | {ratios} |"
            )
    columns = [(a, b) for a, b in PAIRS if a.startswith("celo2") and not a.endswith("no-ns")]
    lines += [
        "",
        f"| | {' | '.join(f'{a} / {b}' for a, b in columns)} |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for s in settings:
        pairs = [(s.of(a), s.of(b)) for a, b in columns]
        cells = [ratio(a, b) if a and b else "" for a, b in pairs]
        cut = f", {s.origin['layers']} layers" if s.origin["layers"] else ""
        lines.append(f"| {s.model}{cut}, {s.dtype} | {' | '.join(cells)} |")
    return "\n".join(lines)
