"""Protects the table of `total_steps=`: ratios by hand, over shared seeds, gaps named."""

import dataclasses

from celo2.evaluate.baselines import ADAMW, MUON, celo2_total_steps, muon_total_steps
from celo2.evaluate.records import Records
from celo2.evaluate.scores import run_of
from celo2.evaluate.total_steps_table import adapted, total_steps, wide
from celo2.evaluate.variants import variant_name
from celo2.rule import Weights
from celo2.theta import load_theta

OURS = celo2_total_steps(load_theta("celo2"))
CONTROL = muon_total_steps(load_theta("celo2"))
POLICY = OURS.grid.others[0]
TUNED = {"learning_rate": 1e-3}


def test_ratios_over_the_seeds_that_both_have(tmp_path):
    (tmp_path / "records/validation").mkdir(parents=True)
    records = Records(tmp_path / "records/validation/runs.jsonl")

    def add(problem, steps, baseline, settings, losses):
        for seed, loss in losses.items():
            records.add(run_of(problem, steps, baseline, settings, seed), {"loss": loss})

    add("fashion-mlp", 400, MUON, TUNED, {0: 9.0, 1: 1.0, 2: 3.0})
    add("fashion-mlp", 400, ADAMW, TUNED, {0: 9.0, 1: 2.0, 2: 2.0, 3: 5.0})
    add("fashion-mlp", 400, OURS, POLICY, {1: 1.0, 2: 2.0})
    add("fashion-mlp", 400, OURS, {**POLICY, "warmup": 0.5}, {1: 7.0})  # another policy
    add("fashion-mlp", 400, CONTROL, CONTROL.grid.others[0], {1: 2.0, 2: 4.0})
    add("byte-lstm", 4000, OURS, POLICY, {1: 1.5})
    add("byte-lstm", 4000, MUON, TUNED, {0: 9.0, 1: 1.0})
    assert total_steps(tmp_path).rows == (
        ("Fashion-MNIST MLP", "400", "1, 2", "0.750", "0.750", "0.500"),
        ("mean of 1", "", "", "0.750", "0.750", "0.500"),
        ("byte LSTM", "4,000", "1", "1.500", "not recorded", "not recorded"),
        ("mean of 1", "", "", "1.500", "", ""),
    )


def test_an_adapted_theta_is_set_over_the_shipped_one_on_shared_seeds(tmp_path):
    (tmp_path / "records/validation").mkdir(parents=True)
    (tmp_path / "records/adapted").mkdir()
    shipped = load_theta("celo2")
    w0, *rest = shipped.weights
    other = dataclasses.replace(shipped, weights=Weights(2 * w0, *rest))
    other.save(tmp_path / "records/adapted/small-transformers.safetensors")
    records = Records(tmp_path / "records/validation/runs.jsonl")
    assert adapted(tmp_path).rows == [("none is recorded", "", "", "", "")]
    for theta, losses in ((shipped, {1: 2.0, 2: 2.2}), (other, {2: 1.1, 3: 9.0})):
        for seed, loss in losses.items():
            run = run_of("byte-transformer", 400, celo2_total_steps(theta), POLICY, seed)
            records.add(run, {"loss": loss})
    assert adapted(tmp_path).rows == [("400", "2", "2.2000", "1.1000", "0.5000")]


def test_a_wide_network_is_set_over_the_best_of_the_learning_rates_around_the_tuned_one(tmp_path):
    (tmp_path / "records/validation").mkdir(parents=True)
    records = Records(tmp_path / "records/validation/runs.jsonl")
    variant = variant_name("fashion-mlp", "width-4x")

    def add(problem, baseline, settings, seed, loss):
        records.add(run_of(problem, 400, baseline, settings, seed), {"loss": loss})

    assert wide(tmp_path).rows == [("none is recorded", "", "", "", "")]
    for baseline, settings in ((OURS, POLICY), (MUON, TUNED)):
        for seed in (0, 1):
            add("fashion-mlp", baseline, settings, seed, 1.0)
    add(variant, OURS, POLICY, 1, 0.9)
    for factor, loss in ((0.5, 1.0), (1.0, 1.5), (2.0, 3.0)):
        add(variant, MUON, {"learning_rate": factor * 1e-3}, 1, loss)
    assert wide(tmp_path).rows == [
        ("Fashion-MNIST MLP", "400", "0.9000", "0.900", "not recorded"),
    ]
