"""The table of `total_steps=`: one configuration against optimizers tuned on each problem."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from celo2.evaluate.baselines import ADAMW, MUON, celo2_total_steps, muon_total_steps
from celo2.evaluate.records import Records
from celo2.evaluate.scores import Score, ratio, recorded_score
from celo2.evaluate.suites import VALIDATION
from celo2.evaluate.tables import Table
from celo2.evaluate.variants import recorded_variants
from celo2.theta import load_theta

RECORDS = "records/validation/runs.jsonl"
ADAPTED = "records/adapted/small-transformers.safetensors"
"""What `celo2 meta-train --family examples.small_transformers:family` wrote."""
WIDE, WIDE_SEEDS = "width-4x", (1,)
"""The variant of a problem, and the seed it is recorded on."""
LENGTHS = (1, 3, 10)
"""Factors of the problems' steps for which tuned optimizers are recorded."""


def total_steps(root: Path) -> Table:
    """Return held-out losses of the shipped policy over those of tuned Muon and AdamW.

    The last column is over Muon by the same policy: what of the gain is the rule's. A row is a
    problem at a length; it has the seeds that all have been run on.
    """
    records = Records(root / RECORDS)
    tuning_free = celo2_total_steps(load_theta("celo2"))
    rivals = MUON, ADAMW, muon_total_steps(load_theta("celo2"))
    rows: list[tuple[str, ...]] = []
    for longer in LENGTHS:
        found: list[list[float | None]] = []
        for name, entry in VALIDATION.items():
            steps = longer * entry.steps
            ours = recorded_score(records, name, steps, tuning_free)
            if ours is None:
                continue
            ratios = []
            for rival in rivals:
                ratios.append(_ratio(ours, recorded_score(records, name, steps, rival)))
            seeds = ", ".join(map(str, ours.losses))
            shown = ["not recorded" if each is None else f"{each:.3f}" for each in ratios]
            rows.append((entry.title, f"{steps:,}", seeds, *shown))
            found.append(ratios)
        if found:
            means = [_mean(column) for column in zip(*found, strict=True)]
            rows.append((f"mean of {len(found)}", "", "", *means))
    titles = "over tuned Muon", "over tuned AdamW", "over Muon by this policy"
    return Table(("", "steps", "seeds", *titles), tuple(rows))


def wide(root: Path) -> Table:
    """Return held-out losses of networks four times as wide, over those of Muon and AdamW.

    These run at the settings that are best on the problem itself, at the best of five learning
    rates around them, each on the same seeds.
    """
    records = Records(root / RECORDS)
    ours = celo2_total_steps(load_theta("celo2"))
    rows = []
    for name, entry in VALIDATION.items():
        at = records, name, entry.steps
        mine = recorded_variants(*at, ours, WIDE_SEEDS).get(WIDE)
        if mine is None:
            continue
        cells = []
        for rival in (MUON, ADAMW):
            curve = recorded_variants(*at, rival, WIDE_SEEDS).get(WIDE)
            cells.append(f"{mine[1.0] / min(curve.values()):.3f}" if curve else "not recorded")
        rows.append((entry.title, f"{entry.steps:,}", f"{mine[1.0]:.4f}", *cells))
    header = ("4 x as wide", "steps", "held-out loss", "over Muon", "over AdamW")
    return Table(header, rows or [("none is recorded", "", "", "", "")])


def adapted(root: Path) -> Table:
    """Return the loss of a theta that was adapted to small transformers, over the shipped one's.

    Both run by `total_steps` on the transformer of validation, four times as wide, on seeds that
    both have.
    """
    records, name = Records(root / RECORDS), "byte-transformer"
    pair = [celo2_total_steps(load_theta(source)) for source in ("celo2", root / ADAPTED)]
    rows = []
    for longer in LENGTHS:
        steps = longer * VALIDATION[name].steps
        before, after = (recorded_score(records, name, steps, each) for each in pair)
        if before is None or after is None:
            continue
        shared = sorted(before.losses.keys() & after.losses.keys())
        means = []
        for score in (before, after):
            means.append(statistics.fmean(score.losses[seed] for seed in shared))
        seeds = ", ".join(map(str, shared))
        cells = f"{means[0]:.4f}", f"{means[1]:.4f}", f"{means[1] / means[0]:.4f}"
        rows.append((f"{steps:,}", seeds, *cells))
    header = ("steps", "seeds", "shipped theta", "adapted", "adapted / shipped")
    return Table(header, rows or [("none is recorded", "", "", "", "")])


def _mean(ratios: Sequence[float | None]) -> str:
    """Return the mean of a column as it is shown; nothing if one is not recorded."""
    known = [ratio for ratio in ratios if ratio is not None]
    return f"{statistics.fmean(known):.3f}" if len(known) == len(ratios) else ""


def _ratio(ours: Score, tuned: Score | None) -> float | None:
    """Return the ratio of losses over the seeds that both have, None if there are none."""
    if tuned is None or not ours.losses.keys() & tuned.losses.keys():
        return None
    return ratio(ours, tuned)
