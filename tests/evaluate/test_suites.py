"""Protects the suites: what an entry says of its problem is so."""

import math
from pathlib import Path

import jax
import pytest

from celo2.evaluate.baselines import MUON
from celo2.evaluate.records import Records
from celo2.evaluate.scores import recorded_score
from celo2.evaluate.suites import REPORTED_SEEDS, TUNING_SEED, VALIDATION, problem
from celo2.jax import route

RECORDS = Path(__file__).parents[2] / "records" / "validation" / "runs.jsonl"


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
