"""The benchmark's tables. Each names the losses as well as the wins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from celo2.evaluate.evidence import BASELINE, Evidence, Speed, ratios, won_and_lost
from celo2.evaluate.intervals import Mean, geometric_mean
from celo2.evaluate.scores import Score, ratio
from celo2.evaluate.sensitivity import LEARNING_RATE, band
from celo2.evaluate.suites import BENCHMARK, LADDER
from celo2.evaluate.tables import Table
from celo2.tasks.variants import VARIANTS

OURS = "Celo2"
RIVALS = ("AdamW", "Muon")
"""Whom losses are counted against, problem by problem."""


def lost(evidence: Evidence) -> Table:
    """Return the problems on which tuned Celo2 loses to a tuned rival, the worst first."""
    rows = []
    for rival in RIVALS:
        mine, theirs = evidence.tuned.get(OURS, {}), evidence.tuned.get(rival, {})
        for problem, paired in ratios(mine, theirs).items():
            worse = ratio(mine[problem], theirs[problem])
            if worse > 1:
                seeds = f"{sum(each > 1 for each in paired)} of {len(paired)}"
                rows.append((worse, (title(problem), rival, f"{worse:.3f}", seeds)))
    rows.sort(key=lambda row: -row[0])
    header = ("problem", "behind", "loss of Celo2 over its", "seeds that agree")
    return Table(header, [cells for _, cells in rows] or [("none", "", "", "")])


def tuned(evidence: Evidence) -> Table:
    """Return, for each optimizer at its best settings, the ratios of its losses to the rivals'."""
    over, against = [], []
    for rival in RIVALS:
        over.append(f"over {rival}, 95 %")
        against.append(f"lost, won, undecided against {rival}")
    rows = []
    for name, mine in evidence.tuned.items():
        means, counts = [], []
        for rival in RIVALS:
            paired = {} if rival == name else ratios(mine, evidence.tuned.get(rival, {}))
            means.append(_mean(paired))
            counts.append(_counts(paired))
        runs = evidence.tuning_runs(name)
        low, high = min(runs), max(runs)
        shown = str(low) if low == high else f"{low} to {high}"
        rows.append((name, str(len(mine)), shown, *means, *counts))
    return Table(("", "problems", "tuning runs", *over, *against), rows)


def tuned_losses(evidence: Evidence) -> Table:
    """Return the held-out losses behind the ratios."""
    scores = evidence.tuned
    rows = []
    for problem in evidence.problems:
        cells = []
        for mine in scores.values():
            cells.append(_loss(mine[problem]) if problem in mine else "")
        rows.append((title(problem), *cells))
    return Table(("", *scores), rows)


def single(evidence: Evidence) -> Table:
    """Return what one configuration of each optimizer reaches, against tuned AdamW."""
    target = evidence.tuned.get(BASELINE, {})
    header = (
        "one configuration",
        "problems",
        "loss over tuned AdamW's, 95 %",
        "speed-up in steps, 95 %",
        "in seconds",
        "lost, won, undecided",
    )
    rows = []
    for name, mine in evidence.single.items():
        scores, timed, factors = {}, {}, {}
        for problem, speed in mine.items():
            scores[problem] = speed.score
            if speed.factors:
                timed[problem], factors[problem] = speed, speed.factors
        paired = ratios(scores, target)
        clock = _in_seconds(evidence, name, timed)
        speed = _mean(factors) + _bounds(timed)
        if len(timed) < len(mine):
            speed += f", on {len(timed)} of them" if timed else ""
        rows.append((name, str(len(mine)), _mean(paired), speed, _mean(clock), _counts(paired)))
    return Table(header, rows)


def configurations(evidence: Evidence) -> Table:
    """Return the one configuration of each optimizer."""
    rows = []
    for name, found in evidence.configurations.items():
        others = ", ".join(f"{key} {value:g}" for key, value in found.others.items())
        if found.learning_rates:
            steps, rate = min(found.learning_rates.items())
            law = f"{rate:g}"
            if found.exponent:
                law += f" · ({steps}/T)^{found.exponent:.2f}"
            else:
                law += " at any number of steps"
        else:
            law = "none"
        rows.append((name, law, others.replace("_", " ")))
    return Table(("", "learning rate of a run of T steps", "other settings"), rows)


def speed_ups(evidence: Evidence) -> Table:
    """Return the speed-up on each problem; a bound where AdamW's loss was always or never met."""
    rows = []
    for problem in evidence.problems:
        cells = []
        for mine in evidence.single.values():
            cells.append(_factor(mine[problem]) if problem in mine else "")
        rows.append((title(problem), *cells))
    return Table(("", *evidence.single), rows)


def bands(evidence: Evidence) -> Table:
    """Return how far the learning rate may be changed at 2 % of loss, by optimizer."""
    by_problem = evidence.sweeps.get(LEARNING_RATE, {})
    swept = set().union(*by_problem.values())
    names = [name for name in evidence.baselines if name in swept]
    rows = []
    for name in names:
        cells, widths = [], []
        for curves in by_problem.values():
            if name not in curves:
                cells.append("")
                continue
            low, high = band(curves[name])
            widths.append(high / low)
            cells.append(f"{low:.2g} to {high:.2g} (x{high / low:.1f})")
        mean = math.exp(sum(map(math.log, widths)) / len(widths))
        rows.append((name, *cells, f"x{mean:.1f}"))
    return Table(("", *map(title, by_problem), "mean width"), rows)


def variants(evidence: Evidence) -> Table:
    """Return how the tuned settings do on variants of a problem.

    It is the loss over the best of the learning rates around, and which factor is best.
    """
    optimizers: dict[str, None] = {}
    for by_variant in evidence.variants.values():
        for curves in by_variant.values():
            optimizers |= dict.fromkeys(curves)
    rows = []
    for problem, by_variant in evidence.variants.items():
        for variant, curves in by_variant.items():
            cells = [_carried(curves[name]) if name in curves else "" for name in optimizers]
            rows.append((title(problem), VARIANTS[variant].title, *cells))
    return Table(("", "variant", *optimizers), rows)


def longer(evidence: Evidence) -> Table:
    """Return the losses over tuned AdamW's at multiples of the steps, each tuned there.

    Where AdamW diverged on a reported seed, they are the losses themselves.
    """
    by_length = {times: evidence.tuned_at(times) for times in evidence.longer}
    ran = set().union(*by_length.values())
    names = [name for name in evidence.baselines if name in ran]
    rows = []
    for times, scores in by_length.items():
        theirs = scores.get(BASELINE, {})
        for problem in theirs:
            cells = [title(problem), f"{times * evidence.steps[problem]:,} ({times} x)"]
            for name in names:
                mine = scores.get(name, {})
                cells.append(_over(mine[problem], theirs[problem]) if problem in mine else "")
            rows.append(cells)
    return Table(("", "steps", *names), rows)


def ladder(evidence: Evidence) -> Table:
    """Return the losses of the ladder's rungs, and their ratios to AdamW's."""
    names = list(dict.fromkeys(itertools.chain.from_iterable(evidence.ladder.values())))
    rows = []
    for rung, mine in evidence.ladder.items():
        cells = []
        for name in names:
            if name not in mine:
                cells.append("")
                continue
            over = f" ({_over(mine[name], mine[BASELINE])})" if BASELINE in mine else ""
            cells.append(_loss(mine[name]) + over)
        rows.append((LADDER[rung].title, f"{LADDER[rung].steps:,}", *cells))
    return Table(("", "steps", *names), rows)


def costs(evidence: Evidence) -> Table:
    """Return the step time over AdamW's, and the optimizer's state in bytes per parameter."""
    rows = []
    for name, mine in evidence.tuned.items():
        times, sizes = [], []
        for problem in mine:
            theirs = evidence.step_seconds(BASELINE, problem) if BASELINE in evidence.tuned else 0
            if theirs > 0:
                times.append(evidence.step_seconds(name, problem) / theirs)
            for record in evidence.tuned_records(name, problem):
                if "state_bytes" in record:
                    sizes.append(record["state_bytes"] / record["parameters"])
        size = f"{sum(sizes) / len(sizes):.1f}" if sizes else ""
        rows.append((name, _geometric(times), size))
    return Table(("", "time of a step over AdamW's", "state, bytes per parameter"), rows)


def title(problem: str) -> str:
    """Return the name of a problem in tables."""
    return BENCHMARK[problem].title if problem in BENCHMARK else problem


def _geometric(values: Sequence[float]) -> str:
    finite = [value for value in values if value > 0]
    return f"{math.exp(sum(map(math.log, finite)) / len(finite)):.2f}" if finite else ""


def _in_seconds(
    evidence: Evidence, name: str, speeds: Mapping[str, Speed]
) -> dict[str, list[float]]:
    """Return speed-ups by problem, divided by the time of a step over AdamW's."""
    found = {}
    for problem, speed in speeds.items():
        mine = evidence.step_seconds(name, problem)
        theirs = evidence.step_seconds(BASELINE, problem)
        if mine > 0 and theirs > 0:
            found[problem] = [factor * theirs / mine for factor in speed.factors]
    return found


def _mean(values: Mapping[str, Sequence[float]]) -> str:
    return show(geometric_mean(values)) if values else ""


def show(mean: Mean) -> str:
    """Format a mean with its interval, where it has one."""
    if not math.isfinite(mean.value):
        return "diverged"
    if math.isnan(mean.low):
        return f"{mean.value:.3f}"
    return f"{mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f})"


def _counts(paired: Mapping[str, Sequence[float]]) -> str:
    won, losses, undecided = won_and_lost(paired.values())
    return f"{losses}, {won}, {undecided}" if paired else ""


def _bounds(speeds: Mapping[str, Speed]) -> str:
    count = sum(speed.bound for speed in speeds.values())
    if not count:
        return ""
    return f", {count} bounds" if count > 1 else ", a bound"


def _factor(speed: Speed) -> str:
    if not speed.factors:
        return ""
    mean = geometric_mean({"": speed.factors}).value
    if not speed.bound:
        return f"{mean:.2f}"
    return f"at least {mean:.2f}" if mean > 1 else f"at most {mean:.2f}"


def _carried(curve: Mapping[float, float]) -> str:
    """Return a loss at the tuned settings over the lowest at learning rates around them."""
    if not math.isfinite(curve[1.0]):
        return "diverged"
    if len(curve) < 2:
        return f"{curve[1.0]:.4g}"
    best = min(curve, key=curve.__getitem__)
    return f"{curve[1.0] / curve[best]:.3f} ({curve[best]:.4g} at x{best:g})"


def _over(score: Score, baseline: Score) -> str:
    if not math.isfinite(baseline.mean):
        return _loss(score)  # of what diverged there is no ratio
    value = ratio(score, baseline)
    return f"{value:.3f}" if math.isfinite(value) else "diverged"


def _loss(score: Score) -> str:
    if not math.isfinite(score.mean):
        return "diverged"
    if math.isnan(score.deviation):
        return f"{score.mean:.4g}"
    return f"{score.mean:.4g} ± {score.deviation:.2g}"
