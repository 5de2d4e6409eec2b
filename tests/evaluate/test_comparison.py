"""Protects comparisons: no run is repeated or lost, and every optimizer can be run."""

import json
import math

import jax
import numpy as np
import optax
import pytest

from celo2 import InputError
from celo2.evaluate.baselines import ADAMW, MUON, OPTIMIZERS, Baseline, Grid, baselines
from celo2.evaluate.comparison import Comparison
from celo2.evaluate.suites import VALIDATION, Problem, problem
from celo2.evaluate.train import train
from tests.families import BatchNorm, Quadratic

TINY = Problem("tiny", Quadratic, 20)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_runs_two_steps(name):
    """At its grid's first settings, with a weight decay and without."""
    (baseline,) = baselines((name,)).values()
    grid = baseline.grid
    settings = dict(grid.others[0])
    if grid.learning_rates:
        settings["learning_rate"] = grid.learning_rates[0]
    result = train(Problem("tiny", Quadratic, 2), baseline, settings, 1)
    assert math.isfinite(result["loss"])
    assert len(result["curve"]) == 2
    assert result["parameters"] == 15


def test_muon_by_the_policy_differs_from_celo2_in_hidden_matrices_alone():
    """All else agrees, the size of updates about, also where weights are small."""
    rng = np.random.default_rng(0)
    shapes = {"embedding": (9, 8), "first.w": (8, 6), "first.b": (6,), "head.w": (6, 3)}
    params = {name: np.float32(0.01 * rng.standard_normal(s)) for name, s in shapes.items()}
    grads = {name: np.float32(rng.standard_normal(s)) for name, s in shapes.items()}
    found = []
    for name in ("celo2-total-steps", "muon-total-steps"):
        (baseline,) = baselines((name,)).values()
        settings = {**baseline.grid.others[0], "weight_decay": 0.0}
        optimizer = baseline.build(settings, 10)
        found.append(jax.jit(optimizer.update)(grads, optimizer.init(params), params)[0])
    ours, muon = found
    for name in ("embedding", "first.b", "head.w"):
        np.testing.assert_allclose(muon[name], ours[name], rtol=1e-5, err_msg=name)
    rms = [float(np.sqrt(np.mean(np.square(each["first.w"])))) for each in found]
    assert rms[0] == pytest.approx(rms[1], rel=0.3)
    assert np.abs(muon["first.w"] - ours["first.w"]).max() > 0.01 * rms[0]


def test_state_is_counted_in_bytes():
    """AdamW has two numbers per parameter and a count: 15 * 2 * 4 + 4 + 4 of its schedule."""
    settings = {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999}
    assert train(Problem("tiny", Quadratic, 2), ADAMW, settings, 1)["state_bytes"] == 128


def test_a_curve_has_50_points_and_metrics_are_recorded():
    settings = {"learning_rate": 1e-2, "b1": 0.9, "b2": 0.999}
    result = train(Problem("norm", BatchNorm, 120), ADAMW, settings, 1)
    assert len(result["curve"]) == 50
    assert result["curve"][-1] < result["curve"][0]
    np.testing.assert_allclose(np.mean(result["curve"][-5:]), result["train_loss"], rtol=0.05)


def fail(settings, steps):
    raise TypeError("no such thing\nmore")


def tuned(comparison):
    done = comparison.run(comparison.tuning())
    return {(unit.candidate, unit.problem.name): score for unit, score in done}


def explode(settings, steps):
    return optax.with_extra_args_support(optax.sgd(1e30))


GRID = Grid((0.1, 0.2), ({"x": 0.0},))


def test_a_comparison_resumes_and_an_optimizer_that_fails_has_lost(tmp_path):
    """It diverges by record, and the others' runs are made and found again."""
    candidates = {
        "AdamW": ADAMW,
        "fails": Baseline("fails", fail, GRID),
        "explodes": Baseline("explodes", explode, GRID),
    }
    path = tmp_path / "runs.jsonl"
    comparison = Comparison(candidates, [TINY], path, seeds=2, tuning_runs=4)
    first = tuned(comparison)
    content = path.read_bytes()
    assert tuned(comparison) == first
    assert path.read_bytes() == content
    assert math.isfinite(first["AdamW", "tiny"].mean)
    assert first["fails", "tiny"].mean == first["explodes", "tiny"].mean == math.inf
    records = [json.loads(line) for line in content.splitlines()]
    by_name = {record["run"]["optimizer"]: record for record in records}
    assert by_name["fails"]["error"] == "TypeError: no such thing"
    assert by_name["fails"]["diverged"]
    assert by_name["explodes"]["diverged"]
    assert not by_name["adamw"]["diverged"]
    seeds = [r["run"]["seed"] for r in records if r["run"]["optimizer"] == "adamw"]
    assert seeds == [0, 0, 0, 0, 1, 2], "as many tuning runs as were allowed, then the reported"


def test_an_interrupted_comparison_goes_on_where_it_was(tmp_path):
    path, whole = tmp_path / "runs.jsonl", tmp_path / "whole.jsonl"
    tuned(Comparison({"AdamW": ADAMW}, [TINY], whole, seeds=1, tuning_runs=3))
    lines = whole.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:30])
    tuned(Comparison({"AdamW": ADAMW}, [TINY], path, seeds=1, tuning_runs=3))
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    expected = [json.loads(line) for line in lines]
    assert [(r["run"], r["loss"], r["curve"]) for r in kept] == [
        (r["run"], r["loss"], r["curve"]) for r in expected
    ]


@pytest.mark.slow
def test_processes_share_one_file_of_records(tmp_path):
    path = tmp_path / "runs.jsonl"
    problems = [TINY, Problem("tinier", Quadratic, 10)]
    comparison = Comparison(
        {"AdamW": ADAMW, "Muon": MUON}, problems, path, seeds=1, tuning_runs=2, jobs=2
    )
    assert len(tuned(comparison)) == 4
    records = [json.loads(line) for line in path.read_text().splitlines()]
    runs = [json.dumps(record["run"], sort_keys=True) for record in records]
    assert len(runs) == len(set(runs)) == 4 * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds is 0; give at least 1"),
        ({"tuning_runs": 0}, "tuning_runs is 0; give at least 1"),
        ({"problems": ()}, "problems is empty; give at least one"),
    ],
)
def test_a_comparison_out_of_range_is_refused(tmp_path, changes, message):
    plan = {"problems": (TINY,), "path": tmp_path / "runs.jsonl", **changes}
    with pytest.raises(InputError, match=message):
        Comparison({"AdamW": ADAMW}, **plan)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="unknown problem 'mnist': take some of byte-transformer"):
        problem("mnist", 1, VALIDATION)
    with pytest.raises(InputError, match="longer is 0; give at least 1"):
        problem("byte-lstm", 0)
    with pytest.raises(InputError, match="unknown optimizer 'adam': take some of adamw, muon"):
        baselines(("adam",))
    for path in ("json:", "math:pi"):
        with pytest.raises(InputError, match=f"optimizer '{path}' is a .*; give module:function"):
            baselines((path,))
    with pytest.raises(InputError, match="optimizer 'optax:none' cannot be imported"):
        baselines(("optax:none",))


def test_an_own_optimizer_is_a_function_of_the_schedule():
    (own,) = baselines(("optax:adam",)).values()
    result = train(TINY, own, {"learning_rate": 0.01}, 1)
    expected = train(TINY, ADAMW, {"learning_rate": 0.01, "b1": 0.9, "b2": 0.999}, 1)
    np.testing.assert_allclose(result["loss"], expected["loss"], rtol=1e-5)
