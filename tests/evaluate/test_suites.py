"""Protects the suites: what an entry says of its problem is so."""

import math
from pathlib import Path

import jax
import pytest

from celo2.errors import InputError
from celo2.evaluate.baselines import MUON
from celo2.evaluate.records import Records
from celo2.evaluate.scores import recorded_score
from celo2.evaluate.suites import (
    BENCHMARK,
    LADDER,
    REPORTED_SEEDS,
    RL,
    SUITES,
    TUNING_SEED,
    VALIDATION,
    problem,
)
from celo2.jax import route
from celo2.tasks.ladder import RUNGS
from celo2.tasks.registry import FULL, full_family

RECORDS = Path(__file__).parents[2] / "records" / "validation" / "runs.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["byte-transformer", "byte-lstm"])
def test_the_text_problems_are_learned_from_what_is_on_every_machine(name):
    found = problem(name)
    assert found.steps == VALIDATION[name].steps
    key = jax.random.key(0)
    task = found.family.sample(key)
    params, state = found.family.init(key, task)
    loss, _ = found.family.loss(params, state, task, key)
    assert abs(float(loss) - math.log(256)) < 0.7, (
        "no better and not much worse than chance at first"
    )
    rules = {r.name: r.rule for r in route(params)}
    assert rules["token_embedding"] == rules["head.w"] == "adamw"
    assert list(rules.values()).count("celo2") == {"byte-transformer": 12, "byte-lstm": 8}[name]


@pytest.mark.parametrize("name", VALIDATION)
def test_thetas_are_screened_at_tuned_muons_multiplier(name):
    entry = VALIDATION[name]
    muon = recorded_score(Records(RECORDS), name, entry.steps, MUON)
    assert entry.adamw_lr_multiplier == muon.settings["adamw_lr_multiplier"]


def test_no_seed_is_both_tuned_on_and_reported():
    assert TUNING_SEED not in REPORTED_SEEDS


def test_no_problem_of_the_benchmark_is_one_that_thetas_are_chosen_by():
    assert not set(BENCHMARK) & set(VALIDATION)
    suites = (VALIDATION, BENCHMARK, LADDER, RL)
    assert set(SUITES) == set().union(*suites) == set(FULL)
    assert len(SUITES) == sum(map(len, suites))


@pytest.mark.parametrize("name", BENCHMARK)
def test_an_entry_of_the_benchmark_says_what_it_stands_for(name):
    entry = BENCHMARK[name]
    assert 100 <= entry.steps <= 500
    assert entry.stands_for.endswith(".")
    assert set(entry.data_seen_in) <= {"meta-training", "validation"}


def test_the_quick_problems_are_five_of_different_domains():
    quick = [entry.domain for entry in BENCHMARK.values() if entry.quick]
    assert len(quick) == len(set(quick)) == 5


@pytest.mark.parametrize("name", ["burgers-pinn", "in-context-regression"])
def test_a_problem_whose_data_are_on_every_machine_can_be_traced(name):
    family, key = problem(name).family, jax.random.key(0)
    task = jax.eval_shape(family.sample, key)
    shapes = jax.eval_shape(family.init, key, task)
    assert 20_000 < sum(math.prod(p.shape) for p in shapes[0].values()) < 500_000
    loss, state = jax.eval_shape(family.loss, *shapes, task, key)
    metrics = jax.eval_shape(family.evaluate, *shapes, task, key)
    assert loss.shape == metrics["loss"].shape == ()
    assert state == shapes[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", RL)
def test_an_agent_learns_from_a_million_environment_steps(name):
    """As many whole rollouts as there are in 1e6; and the program can be traced."""
    found = problem(name)
    rollouts, rest = divmod(found.steps, found.family.uses)
    assert rest == 0
    assert rollouts == int(1e6) // found.family.rows
    shapes = jax.eval_shape(found.family.init, jax.random.key(0), ())
    loss, state = jax.eval_shape(found.family.loss, *shapes, (), jax.random.key(0))
    assert loss.shape == ()
    assert state == shapes[1]


def test_an_unknown_problem_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match=r"unknown problem 'mnist': take some of .*cifar10-vit"):
        problem("mnist")


@pytest.mark.parametrize("name", RUNGS)
def test_a_rung_of_the_ladder_sees_20_tokens_per_parameter(name):
    rung, family = RUNGS[name], full_family(name)
    key = jax.random.key(0)
    params, _ = jax.eval_shape(lambda key: family.init(key, family.sample(key)), key)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == rung.parameters
    tokens = LADDER[name].steps * family.data.batch_size * family.data.context
    assert tokens / rung.parameters == pytest.approx(20, rel=0.01)
