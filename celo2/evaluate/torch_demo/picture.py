"""The picture of a comparison: training curves, and after a sweep the sensitivity."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from celo2.evaluate.torch_demo.compare import Summary
from celo2.evaluate.torch_demo.optimizers import TABLE
from celo2.files import write

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SMOOTHING = 20
"""Steps of the running mean that the curves show."""
COLORS = {name: f"C{i}" for i, name in enumerate(TABLE)}


def draw(best: Sequence[Summary], summaries: Sequence[Summary], text: str, path: Path) -> None:
    """Write the picture as PNG; `best` are those of `summaries` whose curves are drawn."""
    swept = len(summaries) > len(best)
    size = (7.5 + 4.5 * swept, 4.5)
    figure, axes = plt.subplots(1, 1 + swept, figsize=size, layout="constrained", squeeze=False)
    _draw_curves(axes[0, 0], best, text)
    if swept:
        _draw_sensitivity(axes[0, 1], best, summaries)
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(alpha=0.25)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    plt.close(figure)
    write(path, content.getvalue())


def _draw_curves(axes: Axes, best: Sequence[Summary], text: str) -> None:
    window = min(SMOOTHING, len(best[0].curve))
    finite = []
    for s in best:
        curve = np.convolve(s.curve, np.ones(window) / window, mode="valid")
        steps = np.arange(len(curve)) + window
        label = f"{s.optimizer}, learning rate {s.learning_rate:g}: {s.held_out[0]:.3f} held out"
        axes.plot(steps, curve, color=COLORS[s.optimizer], label=_plain(label), lw=1.8)
        finite += curve[np.isfinite(curve)].tolist()
    title = f"{text}, running mean over {window} steps"
    axes.set(xlabel="step", ylabel="training loss, nats per byte", title=_plain(title))
    if finite:  # the first steps, all alike, are cut off
        lowest, highest = min(finite), max(finite)
        axes.set_ylim(lowest - 0.1, max(min(4.0, highest), lowest + 0.2))
    axes.legend(frameon=False)


def _draw_sensitivity(axes: Axes, best: Sequence[Summary], summaries: Sequence[Summary]) -> None:
    for s in best:
        points = []
        for other in summaries:
            if other.optimizer == s.optimizer:
                points.append((other.learning_rate / s.learning_rate, *other.held_out))
        over_best, means, deviations = np.transpose(points)
        color = COLORS[s.optimizer]
        axes.errorbar(over_best, means, deviations, color=color, marker="o", capsize=3)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}" if x >= 1 else f"1/{1 / x:g}")
    title = "sensitivity to the learning rate"
    axes.set(xlabel="learning rate over the best", ylabel="held-out loss", title=title)


def _plain(text: str) -> str:
    """Keep Matplotlib from reading dollar signs of a file's name as mathematics."""
    return text.replace("$", r"\$")
