"""The benchmark's pictures, as SVG that takes its colors of text and lines from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from celo2.evaluate.benchmark_tables import OURS, title
from celo2.evaluate.evidence import Evidence, Speed
from celo2.evaluate.intervals import geometric_mean

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK = "#808182"
"""Drawn for whatever has the color of text; the page's own color takes its place."""
COLORS = (
    "#3b82c4",
    "#e07b39",
    "#d1345b",
    "#7a5cc0",
    "#2f9e6e",
    "#b08900",
    "#8c6d5d",
    "#c65fa8",
    "#6b8e23",
    "#1fa3b0",
    "#708090",
)
"""By the order of the registry; told apart on white and on black."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlesize": 12,
}
SIZE = (4.2, 3.1)
"""Inches; a telephone shows it at nearly this width."""


def colors(evidence: Evidence) -> dict[str, str]:
    """Return the color of each optimizer."""
    names = evidence.baselines
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}


def curves(evidence: Evidence, problem: str) -> str:
    """Return training losses over steps at the tuned settings: mean and range over seeds."""
    shades = colors(evidence)

    def draw(axes: Axes) -> None:
        lowest, highest = np.inf, -np.inf
        for name, mine in evidence.tuned.items():
            if problem not in mine:
                continue
            found = [r["curve"] for r in evidence.tuned_records(name, problem) if r.get("curve")]
            if not found:
                continue
            values = np.array(found, float)  # null becomes NaN
            steps = evidence.steps[problem] * (np.arange(values.shape[1]) + 1) / values.shape[1]
            mean = values.mean(0)
            axes.fill_between(
                steps, values.min(0), values.max(0), color=shades[name], alpha=0.15, lw=0
            )
            style: dict[str, Any] = {"lw": 2.2, "zorder": 3} if name == OURS else {"lw": 1.3}
            axes.plot(steps, mean, color=shades[name], **style)
            tail = mean[len(mean) // 10 :]
            if np.isfinite(tail).any():
                lowest = min(lowest, np.nanmin(tail))
                # One that diverges does not set the scale for the others.
                highest = max(highest, min(np.nanpercentile(tail, 90), np.nanmax(mean[:2])))
        if lowest > 0 and highest / lowest > 10:
            axes.set_yscale("log")
            axes.set_ylim(0.8 * lowest, 1.25 * highest)
        elif np.isfinite(lowest) and highest > lowest:
            margin = 0.08 * (highest - lowest)
            axes.set_ylim(lowest - margin, highest + margin)
        axes.set(xlabel="step", ylabel="training loss", title=title(problem))

    return _svg(draw, SIZE)


def sweep(evidence: Evidence, setting: str, problem: str) -> str:
    """Return held-out losses by the value of one setting, around the tuned ones."""
    shades = colors(evidence)

    def draw(axes: Axes) -> None:
        curves = evidence.sweeps[setting][problem]
        best = min(min(curve.values()) for curve in curves.values())
        for name, curve in curves.items():
            values = sorted(curve)
            losses = [curve[value] for value in values]
            axes.plot(values, losses, color=shades[name], marker="o", ms=3.5, lw=1.4)
        if setting in ("weight_decay", "warmup"):
            axes.set_xscale("symlog", linthresh=0.01)
        else:
            axes.set_xscale("log")
        axes.set_ylim(best * 0.98, best * 1.3)
        axes.set(xlabel=setting.replace("_", " "), ylabel="held-out loss", title=title(problem))

    return _svg(draw, SIZE)


def ratios(means: Mapping[str, tuple[float, float, float]], label: str, marked: str) -> str:
    """Return means with their intervals as dots, one line each; a line marks 1.

    Args:
        means: name -> mean, low, high; an interval may be NaN.
        label: of the axis.
        marked: the name that stands out.
    """

    def draw(axes: Axes) -> None:
        names = list(means)[::-1]
        for i, name in enumerate(names):
            mean, low, high = means[name]
            color = COLORS[2] if name == marked else INK
            if np.isfinite(low):
                axes.plot([low, high], [i, i], color=color, lw=2)
            axes.plot([mean], [i], "o", color=color, ms=6)
        axes.axvline(1, color=INK, lw=0.8, ls=":")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.set_xlabel(label)

    return _svg(draw, (5.2, 0.7 + 0.32 * len(means)))


def means(
    values: Mapping[str, Mapping[str, Sequence[float]]],
) -> dict[str, tuple[float, float, float]]:
    """Return name -> geometric mean, low, high; names that diverged somewhere are left out."""
    found = {}
    for name, by_problem in values.items():
        mean = geometric_mean(by_problem) if by_problem else None
        if mean is not None and np.isfinite(mean.value):
            found[name] = (mean.value, mean.low, mean.high)
    return found


def factors(speeds: Mapping[str, Mapping[str, Speed]]) -> dict[str, dict[str, Sequence[float]]]:
    """Return optimizer -> problem -> speed-ups by seed."""
    found = {}
    for name, mine in speeds.items():
        found[name] = {problem: each.factors for problem, each in mine.items() if each.factors}
    return found


def _svg(draw: Callable[[Axes], None], size: tuple[float, float]) -> str:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, color=INK)
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
    return _inline(content.getvalue())


def _inline(svg: str) -> str:
    """Return what may stand in HTML: no prolog, the page's color and font, any width."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 inherit; font-size: \1", svg)
    return svg.replace(INK, "currentColor")
