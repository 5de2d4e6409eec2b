"""Results as tables and as a picture."""

from __future__ import annotations

import dataclasses
import io
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from rich.box import SIMPLE
from rich.table import Table

from benchmarks.optimizer_step.measure import Measurement, Setting
from benchmarks.optimizer_step.models import MODELS
from benchmarks.provenance import save
from celo2.files import write

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BASELINE = "muon"
"""What the bars of the picture are compared with."""
COMPARED_WITH = ("muon", "muon-float32", "adamw")
"""What all times are divided by."""
PAIRS = (
    ("celo2", "muon-float32"),
    ("celo2", "muon"),
    ("celo2-bf16", "muon"),
    ("celo2", "adamw"),
    ("naive", "celo2"),
    ("naive-no-ns", "celo2-no-ns"),
)
"""Optimizers that are compared turn by turn as well, which cancels passing slowness of the
machine."""

AT_LEAST = {("naive-no-ns", "celo2-no-ns"): 10.0}
"""Ratios that a run should reach: the fused step without Newton-Schulz, whose time both share."""


def load(path: Path) -> list[Setting]:
    """Return what runs saved, nothing where there were none.

    Exit with a message if the file is something else.
    """
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    if "settings" not in content:
        sys.exit(f"{path} holds no settings of this benchmark; give another --out")
    settings = []
    for saved in content["settings"]:
        measurements = [Measurement(**m) for m in saved["measurements"]]
        settings.append(Setting(**{**saved, "measurements": measurements}))
    return settings


def keep(setting: Setting, path: Path) -> None:
    """Save a setting in the place of what was measured of it before."""
    settings = {(each.model, each.dtype): each for each in load(path)}
    # What was measured again comes last.
    settings.pop((setting.model, setting.dtype), None)
    save(path, {"settings": list(map(dataclasses.asdict, [*settings.values(), setting]))})


def ratio(m: Measurement, to: Measurement | None) -> str:
    """Return the ratio of medians, where there is the other one."""
    return f"{m.median / to.median:.2f}" if to else "-"


def table(setting: Setting) -> Table:
    """Return everything but the single turns."""
    title = f"{setting.model}, {setting.dtype}: medians, ratios of medians"
    out = Table("optimizer", "first step, s", "step, ms", box=SIMPLE, title=title)
    for to in COMPARED_WITH:
        out.add_column(f"over {to}")
    out.add_column("state, bytes per entry")
    out.add_column("temporaries, MB")
    for m in setting.measurements:
        ratios = [ratio(m, setting.of(to)) for to in COMPARED_WITH]
        times = f"{m.first_step_seconds:.1f}", f"{1e3 * m.median:.1f}"
        memory = f"{m.bytes_per_entry:.1f}", f"{m.temporary_bytes / 1e6:.0f}"
        out.add_row(m.optimizer, *times, *ratios, *memory)
    return out


def paired(setting: Setting) -> Table:
    """Return, per pair, the median of the ratios of each turn beside the ratio of medians."""
    out = Table("pair", "ratio of medians", "median of ratios", "at least", box=SIMPLE)
    for name, other in PAIRS:
        a, b = setting.of(name), setting.of(other)
        if a and b:
            ratios = [x / y for x, y in zip(a.seconds, b.seconds, strict=True)]
            median, bound = statistics.median(ratios), AT_LEAST.get((a.optimizer, b.optimizer))
            check = "" if bound is None else f"{bound:g}: {'yes' if median >= bound else 'no'}"
            out.add_row(f"{a.optimizer} / {b.optimizer}", ratio(a, b), f"{median:.2f}", check)
    return out


def draw(settings: Sequence[Setting], path: Path) -> None:
    """Draw a bar for each optimizer from Muon's time to its own, on a logarithmic scale.

    Right of the line it is slower.
    """
    models = sorted({setting.model for setting in settings}, key=list(MODELS).index)
    dtypes = sorted({setting.dtype for setting in settings}, reverse=True)
    size = (1.2 + 4.2 * len(dtypes), 0.6 + 3.2 * len(models))
    figure, axes = plt.subplots(
        len(models), len(dtypes), figsize=size, layout="constrained", squeeze=False, sharex=True
    )
    for plot in axes.flat:
        plot.set_visible(False)
    extremes = []
    for setting in settings:
        extremes += _draw(setting, axes[models.index(setting.model), dtypes.index(setting.dtype)])
    axes[0, 0].set_xlim(min(extremes) / 2.5, max(extremes) * 2.5)
    axes[0, 0].xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    plt.close(figure)
    write(path, content.getvalue())


def _draw(setting: Setting, plot: Any) -> list[float]:
    """Draw the bars of one setting and return their ratios."""
    baseline = setting.of(BASELINE)
    # Without it nothing is run.
    assert baseline is not None
    names, ratios, colors = [], [], []
    for m in setting.measurements:
        names.append(m.optimizer)
        ratios.append(m.median / baseline.median)
        colors.append("C0" if m.optimizer.startswith("celo2") else "C7")
    bars = plot.barh(names, [r - 1 for r in ratios], left=1, color=colors)
    plot.bar_label(bars, [f"{r:.2f}" for r in ratios], padding=3, fontsize=8)
    plot.axvline(1, color="black", lw=0.8)
    title, xlabel = f"{setting.model}, {setting.dtype}", f"step time over {BASELINE}'s"
    plot.set(xscale="log", title=title, xlabel=xlabel, visible=True)
    plot.spines[["top", "right"]].set_visible(False)
    plot.invert_yaxis()
    return ratios
