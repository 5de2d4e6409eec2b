"""The pictures of a theta, made from numbers alone, each a PNG file in a folder."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from celo2.evaluate.inspect.memory import LAGS
from celo2.evaluate.inspect.probe import COMPARED
from celo2.evaluate.inspect.response import Response
from celo2.evaluate.inspect.run import Watched
from celo2.files import write
from celo2.rule import Spec

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.titlesize": 12,
    "font.size": 9.5,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}
COLORS = dict(zip(COMPARED, ("#d1345b", "#3b82c4", "#2f9e6e", "#708090"), strict=True))
PANELS = 12
"""Matrices that a picture of a run has a panel for."""
SHOWN = 8
"""Channels whose response is drawn as a curve: those that reach furthest."""
SMOOTHING = 9
"""Steps of the running mean of cosines."""


def draw_theta(
    found: Sequence[Response], memories: np.ndarray, decays: Sequence[float], folder: Path
) -> list[Path]:
    """Draw what needs no run: the response to each channel, and the memory."""
    with plt.rc_context(STYLE):
        return [
            _save(_draw_responses(found), folder / "channels.png"),
            _save(_draw_memory(memories, decays), folder / "memory.png"),
        ]


def draw_run(watched: Watched, spec: Spec, title: str, folder: Path) -> list[Path]:
    """Draw what was seen of a run."""
    with plt.rc_context(STYLE):
        return [
            _save(_draw_cosines(watched, title), folder / "cosines.png"),
            _save(_draw_singular_values(watched, title), folder / "singular-values.png"),
            _save(_draw_units(watched, title), folder / "units.png"),
            _save(_draw_guard(watched, spec.momentum_decays, title), folder / "guard.png"),
        ]


def _save(figure: Figure, path: Path) -> Path:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    plt.close(figure)
    write(path, content.getvalue())
    return path


def _draw_responses(found: Sequence[Response]) -> Figure:
    """Draw how far each channel moves the output, and curves of those that reach furthest."""
    ranked = sorted(found, key=lambda response: response.reach)
    figure = plt.figure(figsize=(11, 6.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.9)).tolist()  # type: ignore
    bars = left.subplots()
    top = {response.name for response in ranked[-SHOWN:]}
    for place, response in enumerate(ranked):
        color = "#3b82c4" if response.name in top else "#c3cad2"
        bars.barh(place, response.reach, color=color)
    bars.set_yticks(range(len(ranked)), [response.name for response in ranked], fontsize=8)
    bars.set(
        ylim=(-0.7, len(ranked) - 0.3),
        title="range of the mean output",
        xlabel="in RMS of the output",
    )
    bars.grid(axis="y", visible=False)
    bars.tick_params(axis="y", length=0)
    panels = right.subplots(SHOWN // 4, 4, sharey=True)
    for axes, response in zip(panels.flat, ranked[::-1], strict=False):
        axes.axhline(0, color="#808182", lw=0.8)
        axes.plot(response.x, response.y, color="#3b82c4", lw=2.2)
        axes.set(title=response.name, xlim=(response.x[0], response.x[-1]))
    right.supxlabel("value of the channel, in RMS over the matrix", fontsize=9.5)
    right.supylabel("mean output, in RMS", fontsize=9.5)
    return figure


def _draw_memory(memories: np.ndarray, decays: Sequence[float]) -> Figure:
    """Draw the response to one gradient by the steps since, beside those of plain momenta."""
    figure, panels = plt.subplots(1, 2, figsize=(10.5, 4), layout="constrained")
    dense = np.arange(max(LAGS) + 1)
    ticks = (0, 1, 3, 10, 30, 100, 300, 1000)
    for axes in panels:
        for decay in decays:
            axes.plot(dense + 1, decay**dense, color="#9aa3ad", lw=1.2, ls=(0, (4, 2)))
            lag = min(np.log(0.5) / np.log(decay), max(LAGS) / 3)
            place = {"xytext": (3, 2), "textcoords": "offset points", "color": "#708090"}
            axes.annotate(f"{decay:g}$^t$", (lag + 1, decay**lag), **place)
        axes.plot(np.array(LAGS) + 1, memories, color="#d1345b", marker="o", ms=4, lw=2.2)
        axes.set_xscale("log")
        axes.set_xticks(np.array(ticks) + 1, ticks)
        axes.minorticks_off()
        axes.set(xlim=(1, max(LAGS) + 1), xlabel="steps since the gradient")
    panels[0].axhline(0, color="#808182", lw=0.8)
    panels[0].set_ylabel("response, over that in the first step")
    panels[1].set_yscale("log")
    panels[1].set(ylim=(1e-4, 1.3), title="the same, logarithmic")
    panels[0].set_title("memory: response to one gradient")
    return figure


def _panels(names: Sequence[str], height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel per matrix, up to four in a row."""
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    size = (2.75 * columns + 0.4, height * rows + 0.9)
    figure, grid = plt.subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, **options
    )
    for axes, name in zip(grid.flat, names, strict=False):
        axes.set_title(name)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    return figure, list(grid.flat[: len(names)])


def _draw_cosines(watched: Watched, title: str) -> Figure:
    names = list(watched.probes)[:PANELS]
    figure, panels = _panels(names, 1.9, sharex=True, sharey=True)
    for axes, name in zip(panels, names, strict=True):
        cosines = np.asarray(watched.probes[name].cosines)
        for i, direction in enumerate(COMPARED):
            steps, smooth = _smoothed(cosines[:, i])
            axes.plot(cosines[:, i], color=COLORS[direction], lw=0.5, alpha=0.3)
            axes.plot(steps, smooth, color=COLORS[direction], label=direction)
        axes.axhline(0, color="#808182", lw=0.8)
    panels[0].set_ylim(-0.1, 1)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(COMPARED))
    figure.suptitle(f"cosine of the update to other directions: {title}", x=0.01, ha="left")
    figure.supxlabel("step", fontsize=9.5)
    return figure


def _smoothed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    window = min(SMOOTHING, len(values))
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    return np.arange(len(smooth)) + window // 2, smooth


def _draw_singular_values(watched: Watched, title: str) -> Figure:
    names = list(watched.singular_values)[:PANELS]
    figure, panels = _panels(names, 1.9, sharex=True, sharey=True)
    for axes, name in zip(panels, names, strict=True):
        before, after = watched.singular_values[name]
        share = (np.arange(len(before)) + 0.5) / len(before)
        axes.plot(share, before, color="#708090", label="before Newton-Schulz")
        axes.plot(share, after, color="#d1345b", label="after")
        axes.set_yscale("log")
        axes.set(xlim=(0, 1), ylim=(1e-3, 30))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2)
    heading = f"singular values of the direction, over their RMS: {title}"
    figure.suptitle(heading, x=0.01, ha="left")
    figure.supxlabel("rank, as a share of all", fontsize=9.5)
    return figure


def _draw_units(watched: Watched, title: str) -> Figure:
    """Draw at what share of the entries each hidden unit is above zero, per matrix."""
    names = list(watched.probes)
    active = np.stack([np.asarray(watched.probes[name].active).mean(0) for name in names])
    hidden = active.shape[-1]
    figure, panels = plt.subplots(
        1, 2, figsize=(8.5, 0.24 * len(names) + 1.9), layout="constrained", sharey=True
    )
    for layer, axes in enumerate(panels):
        image = axes.imshow(active[:, layer], vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.grid(visible=False)
        axes.set_xticks(range(hidden), range(1, hidden + 1))
        dead = np.flatnonzero(active[:, layer].max(0) < 1e-3)
        for unit in dead:
            axes.text(unit, -0.75, "dead", ha="center", fontsize=8, color="#d1345b")
        axes.set_xlabel(f"unit of hidden layer {layer + 1}")
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    bar = figure.colorbar(image, ax=list(panels), pad=0.02)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label("share of the entries at which it is above 0")
    figure.suptitle(f"hidden units of the MLP: {title}", x=0.01, ha="left")
    return figure


def _draw_guard(watched: Watched, decays: Sequence[float], title: str) -> Figure:
    """Draw the share of updates that a guard would push, by kappa and by momentum."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    cosines = np.concatenate([np.asarray(p.momentum_cosines) for p in watched.probes.values()])
    for i, (decay, color) in enumerate(
        zip(decays, ("#d1345b", "#e07b39", "#7a5cc0"), strict=False)
    ):
        values = np.sort(cosines[:, i])
        share = np.arange(1, len(values) + 1) / len(values)
        axes.step(values, share, where="post", color=color, label=f"momentum of decay {decay:g}")
    axes.set_yscale("log")
    axes.set(
        xlim=(min(-0.05, cosines.min()), 1), ylim=(0.5 / len(cosines), 1.2),
        xlabel="least cosine kappa", ylabel="share of updates below it",
        title=f"updates that a guard would push: {title}",
    )  # fmt: skip
    axes.legend(loc="lower right")
    return figure
