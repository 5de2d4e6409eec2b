"""Protects the demo: the same seed gives the same run, and all optimizers are compared alike."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.optim import Muon

from celo2 import InputError
from celo2.data import text
from celo2.evaluate.records import Records
from celo2.evaluate.torch_demo.compare import best_of_each, plan, record, recorded, summarize
from celo2.evaluate.torch_demo.gpt import GPT, GPTConfig
from celo2.evaluate.torch_demo.muon import Float32Muon, bfloat16_slowdown
from celo2.evaluate.torch_demo.optimizers import TABLE, Choice, schedule
from celo2.evaluate.torch_demo.train import RunConfig, RunResult, run

TINY = RunConfig(
    "celo2", 2e-3, steps=4, batch_size=4, model=GPTConfig(width=32, depth=1, context=16)
)


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 1000)
    return text.from_file(path)


def losses(config, data):
    result = list(run(config, data))[-1]
    return [*result.losses, result.held_out_loss]


@pytest.mark.parametrize("name", TABLE)
def test_a_run_is_decided_by_its_configuration(name, prose):
    changes = {"optimizer": name, "learning_rate": TABLE[name].best, "muon_dtype": "float32"}
    config = dataclasses.replace(TINY, **changes)
    first = losses(config, prose)
    assert first == losses(config, prose)
    assert np.isfinite(first).all()
    assert first[0] == losses(TINY, prose)[0], "all start from the same weights and batch"


def test_about_a_million_parameters_and_causal():
    model = GPT()
    assert 0.8e6 < sum(p.numel() for p in model.parameters()) < 1.2e6
    tokens = torch.randint(256, (1, 20))
    changed = tokens.clone()
    changed[0, 10] = (changed[0, 10] + 1) % 256
    same = (model(tokens) - model(changed)).abs().amax(-1)[0] < 1e-6
    assert same[:10].all()
    assert not same[10]


@pytest.mark.parametrize("name", TABLE)
def test_every_optimizer_updates_every_weight(name, prose):
    model = GPT(TINY.model)
    before = [p.detach().clone() for p in model.parameters()]
    windows = text.windows(prose.train, np.random.default_rng(0), 4, 16)
    model.loss(torch.from_numpy(windows)).backward()
    for optimizer in TABLE[name].build(model, Choice(TABLE[name].best)):
        optimizer.step()
    for p, old in zip(model.parameters(), before, strict=True):
        assert not torch.equal(p, old)


def test_the_schedule_warms_up_and_ends_at_zero():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 1.0)
    each = schedule(optimizer, 100)
    learning_rates = []
    for _ in range(100):
        learning_rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        each.step()
    np.testing.assert_allclose(learning_rates[:6], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0], rtol=1e-2)
    assert learning_rates[-1] < 1e-2


@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_in_float32_is_pytorchs_but_for_rounding(shape, nesterov):
    """Three steps of each; a product in bfloat16 is off by up to 1 %."""
    options = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9, "nesterov": nesterov}
    params = []
    for kind in (Float32Muon, Muon):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(shape))
        optimizer = kind([p], **options)
        for _ in range(3):
            p.grad = torch.randn(shape)
            optimizer.step()
        params.append(p.detach())
    torch.manual_seed(0)
    moved = (params[1] - torch.randn(shape)).norm()
    assert (params[0] - params[1]).norm() < 0.02 * moved


def test_the_slowdown_of_bfloat16_is_a_ratio_of_times():
    assert 0.01 < bfloat16_slowdown(64) < 1000


def test_a_sweep_has_five_learning_rates_per_optimizer():
    configs = plan(list(TABLE), TINY, seeds=3, sweep=True, muon_dtype="float32")
    assert len(configs) == len(TABLE) * 5 * 3
    for name, entry in TABLE.items():
        assert entry.best in entry.learning_rates
        dtypes = {c.muon_dtype for c in configs if c.optimizer == name}
        assert dtypes == {"float32" if name.startswith("muon") else "bfloat16"}


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        ([], {}, "optimizers is empty; give some of celo2, adamw"),
        (["celo2", "celo2"], {}, "optimizers is celo2 celo2; give each of them once"),
        (["sgd"], {}, "unknown optimizer 'sgd': take some of celo2, adamw, muon-0.95, muon-0.9"),
        (["celo2"], {"seed": -1}, "seed is -1; give a number from 0 to 2\\^64 - 1"),
        (["celo2"], {"seed": 2**64}, "seed is 18446744073709551616; give a number from 0"),
        (["celo2"], {"steps": 0}, "steps is 0; give at least 1"),
        (["celo2"], {"model": GPTConfig(width=100)}, "width is 100; give a multiple of 32"),
        (["celo2"], {"model": GPTConfig(depth=0)}, "depth is 0; give at least 1"),
    ],
)
def test_a_comparison_out_of_range_is_refused(names, changes, message):
    with pytest.raises(InputError, match=message):
        plan(names, dataclasses.replace(TINY, **changes), 1, False, "bfloat16")


def test_the_largest_seed_runs(prose):
    assert np.isfinite(losses(dataclasses.replace(TINY, seed=2**64 - 1), prose)).all()


def test_a_recorded_run_is_found_and_one_that_diverged_too(tmp_path, prose):
    records = Records(tmp_path / "runs.jsonl")
    assert recorded(records, TINY, prose) is None
    record(records, RunResult(TINY, [5.0, math.nan], math.nan, [0.1, 0.2]), prose)
    found = recorded(Records(records.path), TINY, prose)
    assert found.losses[0] == 5.0
    assert math.isnan(found.losses[1])
    assert math.isnan(found.held_out_loss)
    assert recorded(records, dataclasses.replace(TINY, seed=1), prose) is None


def test_a_damaged_record_names_the_remedy(tmp_path, prose):
    records = Records(tmp_path / "runs.jsonl")
    record(records, RunResult(TINY, [5.0], 4.0, [0.1]), prose)
    path = records.path
    path.write_text(path.read_text().replace('"losses"', '"other"'))
    with pytest.raises(InputError, match=r"a run of celo2 in .* has no 'losses'; delete its line"):
        recorded(Records(path), TINY, prose)


def test_a_summary_is_mean_and_deviation_over_seeds():
    results = []
    for learning_rate, held_out in ((1.0, (4.0, 6.0)), (2.0, (3.0, 5.0))):
        for seed, loss in enumerate(held_out):
            config = RunConfig("celo2", learning_rate, seed=seed, steps=2)
            results.append(RunResult(config, [5.0, loss], loss, [0.1, 0.3]))
    results.append(RunResult(RunConfig("adamw", 1.0, steps=2), [5.0, 9.0], 9.0, [0.1, 0.3]))
    first, second, adamw = summarize(results)
    assert second.held_out == (4.0, pytest.approx(math.sqrt(2)))
    assert second.optimizer_milliseconds == pytest.approx(200)
    assert best_of_each([first, second, adamw]) == [second, adamw]


def test_held_out_text_is_not_trained_on():
    data = text.standard_library()
    assert len(data.train) > 5 * len(data.held_out) > 10**6
    window = data.held_out[1000:1400].tobytes()
    assert window not in data.train.tobytes()


def test_texts_that_cannot_serve(tmp_path):
    absent = (
        r"cannot read the text .*absent.txt \(No such file or directory\); give a readable file"
    )
    with pytest.raises(InputError, match=absent):
        text.from_file(tmp_path / "absent.txt")
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(InputError, match="has 5 bytes; give one of at least 20000"):
        text.from_file(tmp_path / "short.txt")
