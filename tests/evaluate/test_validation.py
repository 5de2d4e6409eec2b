"""Protects scores: every contender is tuned alike, runs are what they say, and finished ones are not repeated."""

import dataclasses
import io
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from celo2 import InputError, Theta, load_theta
from celo2.cli import main
from celo2.cli.experiments import MUON, Experiment, read, table
from celo2.evaluate import train as bench_run
from celo2.evaluate import tune as validation
from celo2.evaluate.baselines import TUNED, Tuned, schedule
from celo2.evaluate.suites import VALIDATION, Problem, problem
from celo2.evaluate.tune import BASELINES, Contender, Runs, Score, relative, tune
from celo2.meta.config import MetaConfig, from_settings
from celo2.meta.estimators import PES
from tests.families import Quadratic

STEPS = 30
TINY = Problem("tiny", Quadratic(), STEPS)
CELO2 = Contender("celo2", "celo2", load_theta("celo2"))


def test_a_run_is_the_plain_loop():
    """The compiled run against optax's AdamW step by step."""
    settings = {"learning_rate": 0.05, "b1": 0.9, "b2": 0.95}
    result = bench_run.train(TINY, "adamw", settings, seed=3)

    task_key, params_key, batch_key = jax.random.split(jax.random.key(3), 3)
    family = TINY.family
    task = family.sample(task_key)
    params, _ = family.init(params_key, task)
    adamw = optax.adamw(schedule(0.05, STEPS), b1=0.9, b2=0.95, weight_decay=0.0)
    state, losses = adamw.init(params), []
    for key in jax.random.split(batch_key, STEPS):
        (loss, _), grads = jax.value_and_grad(family.loss, has_aux=True)(params, (), task, key)
        updates, state = adamw.update(grads, state, params)
        params, losses = optax.apply_updates(params, updates), [*losses, loss]
    keys = jax.random.split(jax.random.key(2**31 - 1), bench_run.HELD_OUT_BATCHES)
    expected = np.mean([family.evaluate(params, (), task, key)["loss"] for key in keys])
    np.testing.assert_allclose(result["loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(result["train_loss"], np.mean(losses[-3:]), rtol=1e-4)


def test_theta_is_an_argument_of_the_run():
    """Two thetas, one compilation, two results; and each as if it had been compiled in."""
    settings = {"learning_rate": 0.05, "adamw_lr_multiplier": 5.0}
    before = bench_run._run._cache_size()
    found = [bench_run.train(TINY, "celo2", settings, 0, theta)["loss"] for theta in (CELO2.theta, Theta.random(5))]
    assert bench_run._run._cache_size() == before + 1
    assert found[0] != found[1]
    transform = TUNED["celo2"].build(settings, STEPS, Theta.random(5))
    params = {"w": jnp.ones((4, 3))}
    compiled_in, _ = transform.update(params, transform.init(params), params)
    other = TUNED["celo2"].build(settings, STEPS, CELO2.theta)
    handed_over, _ = other.update(params, other.init(params), params, weights=Theta.random(5).weights)
    np.testing.assert_allclose(compiled_in["w"], handed_over["w"], rtol=1e-6)


def test_muons_step_has_rms_1_as_celo2s_has():
    """Of a hidden matrix."""
    params = {"hidden": jax.random.normal(jax.random.key(0), (64, 128))}
    for name, settings in (("muon", {"momentum": 0.9}), ("celo2", {})):
        transform = TUNED[name].build({"learning_rate": 0.01, "adamw_lr_multiplier": 5.0, **settings}, 1, CELO2.theta)
        updates, _ = transform.update(params, transform.init(params), params)
        rate = float(schedule(0.01, 1)(0))
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(updates["hidden"] ** 2)) / rate, 1, rtol=0.2)


def losses_by_rate(best):
    """A stand-in for training: a parabola in log2 of the rate."""
    return lambda problem, contender, settings, seed: (math.log2(settings["learning_rate"] / best)) ** 2 + settings["x"] + seed


@pytest.mark.parametrize("best", [0.1, 0.4, 1.6])
def test_a_grid_is_extended_until_the_best_lies_inside(tmp_path, monkeypatch, best):
    runs = Runs(tmp_path / "runs.jsonl")
    monkeypatch.setattr(runs, "loss", losses_by_rate(best))
    grid = Tuned(TUNED["adamw"].build, (0.2, 0.4), ({"x": 0.5}, {"x": 0.25}))
    score = tune(runs, TINY, BASELINES[0], 2, grid)
    assert score.settings == {"learning_rate": best, "x": 0.25}
    assert score.losses == (0.25, 1.25)


def test_finished_runs_are_not_repeated_and_a_cut_line_is_run_again(tmp_path, monkeypatch):
    path = tmp_path / "runs.jsonl"
    settings = {"learning_rate": 0.05, "b1": 0.9, "b2": 0.95}
    first = Runs(path).loss(TINY, BASELINES[0], settings, 0)
    line = path.read_text()
    assert json.loads(line)["loss"] == first
    path.write_text(line + line[:20])
    monkeypatch.setattr(bench_run, "train", lambda *arguments: pytest.fail("ran again"))
    assert Runs(path).loss(TINY, BASELINES[0], settings, 0) == first
    assert path.read_text() == line
    path.write_text("no json\n" + line)
    with pytest.raises(InputError, match=r"line 1 of .*runs.jsonl is no run"):
        Runs(path)


def test_a_diverged_run_is_infinitely_bad_and_saved_as_null(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_run, "train", lambda *arguments: {"loss": math.nan, "train_loss": 1.0})
    path = tmp_path / "runs.jsonl"
    for _ in range(2):
        assert Runs(path).loss(TINY, BASELINES[0], {"learning_rate": 1.0}, 0) == math.inf
    assert json.loads(path.read_text())["loss"] is None


def test_the_score_is_relative_to_the_better_baseline_of_each_problem():
    scores = {
        "AdamW": {"a": Score({}, (2.0, 4.0)), "b": Score({}, (1.0,))},
        "Muon": {"a": Score({}, (2.0,)), "b": Score({}, (4.0,))},
        "theta": {"a": Score({}, (1.0,)), "b": Score({}, (2.0,))},
    }
    assert relative(scores)["theta"] == {"a": 0.5, "b": 2.0}
    assert scores["AdamW"]["a"].deviation == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("name", ["byte-transformer", "byte-lstm"])
def test_the_text_problems_are_learned_from_what_is_on_every_machine(name):
    found = problem(name)
    assert found.steps == VALIDATION[name]
    key = jax.random.key(0)
    task = found.family.sample(key)
    params, state = found.family.init(key, task)
    loss, _ = found.family.loss(params, state, task, key)
    assert abs(float(loss) - math.log(256)) < 0.7, "no better and not much worse than chance at first"
    rules = {r.name: r.rule for r in validation_routes(params)}
    assert rules["token_embedding"] == rules["head.w"] == "adamw"
    assert list(rules.values()).count("celo2") == {"byte-transformer": 12, "byte-lstm": 8}[name]


def validation_routes(params):
    from celo2.jax import route

    return route(params)


def test_unknown_names_and_numbers_are_refused(tmp_path, capsys):
    for arguments, message in (
        (["--problems", "mnist"], "unknown problem 'mnist': take some of byte-transformer"),
        (["--seeds", "0"], "--seeds is 0; give at least 1"),
        (["absent.safetensors"], "unknown theta 'absent.safetensors'"),
        (["celo2", "celo2"], "two of the thetas go by one name"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["validate", *arguments, "--out", str(tmp_path)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_settings_make_a_configuration():
    config = from_settings({"inner.cosine": True, "estimator": "PES", "estimator.sigma": 0.5, "augmentation.alpha": [1, 2]})
    assert config.inner.cosine
    assert config.estimator == PES(sigma=0.5)
    assert config.augmentation.alpha == (1, 2)
    assert from_settings({}) == MetaConfig()
    with pytest.raises(InputError, match=r"no configuration has a setting 'inner.warmth'"):
        from_settings({"inner.warmth": 1})
    with pytest.raises(InputError, match=r"inner.weighting is 'linaer'; take one of uniform, linear"):
        from_settings({"inner.weighting": "linaer"})
    with pytest.raises(InputError, match="unknown estimator 'SPSA': take one of Unrolled, PES, ES"):
        from_settings({"estimator": "SPSA"})


def test_the_table_of_experiments_fits_a_narrow_terminal_best_first():
    muon = {problem: list(losses) for problem, losses in MUON.items()}
    worse = {problem: [1.25 * loss for loss in losses] for problem, losses in muon.items()}
    few = {**muon, "byte-lstm": [0.5 * muon["byte-lstm"][0]]}
    found = [("worse", worse), ("partial", {"byte-lstm": few["byte-lstm"]}), ("as-muon", muon), ("few-seeds", few)]
    console = Console(width=80, file=io.StringIO())
    console.print(table([Experiment(name, f"why {name}", None, {"minutes": 2.5, "losses": x}) for name, x in found]))
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    scores = [line for line in lines if line[:1] and line[0] in dict(found) and "why" not in line]
    assert [line[0] for line in scores] == ["few-seeds", "as-muon", "worse", "partial"]
    assert scores[0][-4:] == ["0.500", "(1)", "0.9000", "2.5"]
    assert scores[2][1:] == ["1.250"] * 5 + ["1.2500", "2.5"]
    assert ["worse", "why", "worse"] in lines


def test_every_recorded_experiment_can_be_run_again():
    root = Path(__file__).parents[2]
    experiments = read(root / "records" / "experiments")
    assert len(experiments) >= 10
    for experiment in experiments.values():
        assert experiment.question
        if experiment.patch:
            assert (root / experiment.patch).is_file()
            with pytest.raises(InputError, match=f"is of another rule; git apply {experiment.patch}"):
                _ = experiment.config
            experiment = dataclasses.replace(experiment, patch=None)
        assert experiment.settings is None or experiment.config
        assert set(experiment.result.get("losses", {})) <= set(validation.MULTIPLIER)
