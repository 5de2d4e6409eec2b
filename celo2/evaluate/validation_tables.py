"""The tables of the validation problems, of the experiments, and of the demo."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from celo2.evaluate.baselines import ADAMW, MUON, Baseline, celo2
from celo2.evaluate.experiments import mean_ratio, muon_scores, ratios, read
from celo2.evaluate.inspect.sensitivity import sensitivity
from celo2.evaluate.records import Records
from celo2.evaluate.scores import Score, ratio, recorded_score
from celo2.evaluate.screen import SCREENING_SEEDS
from celo2.evaluate.suites import VALIDATION
from celo2.evaluate.tables import Table
from celo2.evaluate.torch_demo.sweep import best_of_sweep
from celo2.theta import load_theta

DEMO_SWEEP = "records/demo/sweep/runs.jsonl"
DEMO_SWEEP_BASE = "records/demo/sweep-base/runs.jsonl"
DEMO_BFLOAT16 = "records/demo/bf16/runs.jsonl"
LONG = ("cifar10-conv", "fashion-mlp", "mnist-autoencoder")
"""Problems that were run for ten times their steps."""
PROBED = ("handcrafted", "seed-0", "seed-1", "seed-2", "022-long-horizons")
READ = 0.2
"""Derivative over the largest, from which on a feature has a row."""
HANDWRITTEN = {"Muon": MUON, "AdamW": ADAMW}


def validation(root: Path) -> Table:
    """Return ratios to tuned Muon at the problems' own steps."""
    return _ratio_table(root, _headline(), tuple(VALIDATION), longer=1)


def validation_long(root: Path) -> Table:
    """Return ratios to tuned Muon at ten times the steps."""
    return _ratio_table(root, _headline(), LONG, longer=10)


def validation_losses(root: Path) -> Table:
    """Return held-out losses of all thetas of records/validation at the problems' own steps."""
    return _loss_table(root, {**_headline(), **_thetas(root)}, tuple(VALIDATION), longer=1)


def validation_losses_long(root: Path) -> Table:
    """Return held-out losses at ten times the steps."""
    return _loss_table(root, _headline(), LONG, longer=10)


def tuned_learning_rates(root: Path) -> Table:
    """Return the best learning rate of each optimizer, with its multiplier for AdamW's part."""
    rows = []
    for longer, problems in ((1, tuple(VALIDATION)), (10, LONG)):
        scores = _scores(root, _headline(), problems, longer)
        for p in problems:
            cells = [_learning_rate(scores[name][p].settings) for name in scores]
            rows.append((VALIDATION[p].title, f"{longer * VALIDATION[p].steps:,}", *cells))
    return Table(("", "steps", *_headline()), rows)


def experiments(root: Path) -> Table:
    """Return the score of every experiment, in order of time."""
    found = read(root / "records/experiments")
    muon = muon_scores(root / "records/validation/runs.jsonl")
    rows = []
    for name, experiment in found.items():
        by_problem = ratios(experiment, muon)
        losses = experiment.result.get("losses", {})
        cells = [_screened(by_problem, p, len(losses.get(p, ()))) for p in VALIDATION]
        mean = mean_ratio(by_problem)
        shown = f"{mean:.4f}" if mean < float("inf") else ""
        minutes = str(experiment.result.get("minutes", ""))
        rows.append((name, *cells, shown, minutes))
    return Table(("experiment", *_titles(tuple(VALIDATION)), "mean", "minutes"), rows)


def experiment_answers(root: Path) -> Table:
    """Return what each experiment asked and what was learned, in order of time."""
    rows = []
    for name, experiment in read(root / "records/experiments").items():
        rows.append((name, experiment.question, experiment.answer))
    return Table(("experiment", "question", "answer"), rows)


def demo(root: Path) -> Table:
    """Return the demo's recorded sweeps: each optimizer at its best learning rate."""
    found = best_of_sweep(root / DEMO_SWEEP)
    found["celo2-base"] = best_of_sweep(root / DEMO_SWEEP_BASE)["celo2"]
    rows = []
    for name, (learning_rate, loss) in found.items():
        rows.append((name, f"{learning_rate:g}", f"{loss:.4f}"))
    rows.sort(key=lambda row: float(row[-1]))
    return Table(("optimizer", "learning rate", "held-out loss"), rows)


def demo_bfloat16(root: Path) -> Table:
    """Return the demo's held-out losses with the state of Celo2 in float32 and in bfloat16."""
    labels = {"celo2": "float32", "celo2-bf16": "bfloat16"}
    losses: dict[str, list[float]] = {}
    for record in Records(root / DEMO_BFLOAT16):
        label = labels[record["run"]["config"]["optimizer"]]
        losses.setdefault(label, []).append(record["held_out_loss"])
    rows = []
    for label, found in losses.items():
        loss = f"{statistics.fmean(found):.4f} ± {statistics.stdev(found):.4f}"
        rows.append((label, str(len(found)), loss))
    return Table(("state", "seeds", "held-out loss"), rows)


def sensitivities(root: Path) -> Table:
    """Return the mean derivative of the direction by the features that any theta reads most."""
    found = {}
    for name in PROBED:
        (path,) = (root / "records").glob(f"*/{name}.safetensors")
        found[name] = sensitivity(load_theta(path))
    largest = {}
    for feature in found[PROBED[0]]:
        largest[feature] = max(abs(column[feature]) for column in found.values())
    rows = []
    for feature in sorted(largest, key=largest.__getitem__, reverse=True):
        if largest[feature] >= READ:
            rows.append((feature, *[f"{column[feature]:z.2f}" for column in found.values()]))
    return Table(("channel", *found), rows)


def _headline() -> dict[str, Baseline]:
    return {"Celo2": celo2(load_theta("celo2")), **HANDWRITTEN}


def _thetas(root: Path) -> dict[str, Baseline]:
    """Return Celo2 with each theta of the records, but for the shipped one."""
    shipped = load_theta("celo2").sha256
    thetas = {}
    for path in sorted((root / "records/validation").glob("*.safetensors")):
        theta = load_theta(path)
        if theta.sha256 != shipped:
            thetas[path.stem] = celo2(theta)
    return thetas


def _scores(
    root: Path, candidates: dict[str, Baseline], problems: Sequence[str], longer: int
) -> dict[str, dict[str, Score]]:
    """Return candidate -> problem -> score; a candidate that lacks a problem is left out."""
    records = Records(root / "records/validation/runs.jsonl")
    scores: dict[str, dict[str, Score]] = {}
    for name, baseline in candidates.items():
        mine = {}
        for problem in problems:
            steps = longer * VALIDATION[problem].steps
            score = recorded_score(records, problem, steps, baseline)
            if score is not None:
                mine[problem] = score
        if len(mine) == len(problems):
            scores[name] = mine
    return scores


def _over(mine: dict[str, Score], muon: dict[str, Score]) -> dict[str, float]:
    """Return the ratio of losses by problem."""
    return {problem: ratio(score, muon[problem]) for problem, score in mine.items()}


def _ratio_table(
    root: Path, candidates: dict[str, Baseline], problems: Sequence[str], longer: int
) -> Table:
    scores = _scores(root, candidates, problems, longer)
    rows = []
    for name, mine in scores.items():
        to_muon = _over(mine, scores["Muon"])
        mean = sum(to_muon.values()) / len(problems)
        rows.append((name, *[f"{to_muon[p]:.3f}" for p in problems], f"{mean:.3f}"))
    return Table(("", *_titles(problems), "mean"), rows)


def _loss_table(
    root: Path, candidates: dict[str, Baseline], problems: Sequence[str], longer: int
) -> Table:
    scores = _scores(root, candidates, problems, longer)
    rows = []
    for name, mine in scores.items():
        to_muon = _over(mine, scores["Muon"])
        cells = []
        for p in problems:
            cells.append(f"{mine[p].mean:.4f} ± {mine[p].deviation:.4f} ({to_muon[p]:.3f})")
        seeds = ", ".join(map(str, mine[problems[0]].losses))
        rows.append((name, seeds, *cells, f"{sum(to_muon.values()) / len(problems):.4f}"))
    rows.sort(key=lambda row: float(row[-1]))
    return Table(("", "seeds", *_titles(problems), "mean ratio"), rows)


def _learning_rate(settings: Mapping[str, float]) -> str:
    factor = settings.get("adamw_lr_multiplier")
    return f"{settings['learning_rate']:g}" + (f", AdamW at {factor:g} times" if factor else "")


def _titles(problems: Sequence[str]) -> list[str]:
    return [VALIDATION[problem].title for problem in problems]


def _screened(ratios: Mapping[str, float], problem: str, seeds: int) -> str:
    """Format a ratio, with the number of its seeds where they are fewer than three."""
    if problem not in ratios:
        return ""
    few = f" ({seeds})" if seeds < len(SCREENING_SEEDS) else ""
    return f"{ratios[problem]:.3f}{few}"
