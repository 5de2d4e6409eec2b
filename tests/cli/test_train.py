"""Protects the main job: the same seed gives the same run, a cut comparison goes on, and the command line speaks plainly."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from celo2 import InputError
from celo2.cli.train import plan, summarize, verdict
from celo2.data import text
from celo2.evaluate.torch_demo.gpt import GPT, GPTConfig
from celo2.evaluate.torch_demo.optimizers import TABLE, schedule
from celo2.evaluate.torch_demo.train import RunConfig, RunResult, run

TINY = RunConfig("celo2", 2e-3, steps=4, batch_size=4, model=GPTConfig(width=32, depth=1, context=16))


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 1000)
    return path


def celo2(*arguments):
    command = [sys.executable, "-m", "celo2.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def losses(config, data):
    result = list(run(config, data))[-1]
    return [*result.losses, result.held_out_loss]


@pytest.mark.parametrize("name", TABLE)
def test_a_run_is_decided_by_its_configuration(name, prose):
    data = text.from_file(prose)
    config = RunConfig(name, TABLE[name].best, steps=4, batch_size=4, model=TINY.model)
    first = losses(config, data)
    assert first == losses(config, data)
    assert np.isfinite(first).all()
    assert first[0] == losses(TINY, data)[0], "all optimizers start from the same weights and batch"


def test_about_a_million_parameters_and_causal():
    model = GPT()
    assert 0.8e6 < sum(p.numel() for p in model.parameters()) < 1.2e6
    tokens = torch.randint(256, (1, 20))
    changed = tokens.clone()
    changed[0, 10] = (changed[0, 10] + 1) % 256
    same = (model(tokens) - model(changed)).abs().amax(-1)[0] < 1e-6
    assert same[:10].all()
    assert not same[10]


def test_every_optimizer_moves_every_weight(prose):
    data = text.from_file(prose)
    for name, entry in TABLE.items():
        model = GPT(TINY.model)
        before = [p.detach().clone() for p in model.parameters()]
        optimizers = entry.build(model, entry.best, "celo2")
        model.loss(torch.from_numpy(text.windows(data.train, np.random.default_rng(0), 4, 16))).backward()
        for optimizer in optimizers:
            optimizer.step()
        assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)), name


def test_the_schedule_warms_up_and_ends_at_zero():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 1.0)
    each = schedule(optimizer, 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        each.step()
    np.testing.assert_allclose(rates[:6], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0], rtol=1e-2)
    assert rates[-1] < 1e-2


def test_held_out_text_is_not_trained_on():
    data = text.standard_library()
    assert len(data.train) > 5 * len(data.held_out) > 10**6
    window = data.held_out[1000:1400].tobytes()
    assert window not in data.train.tobytes()


def test_a_sweep_has_five_rates_an_optimizer():
    configs = plan(list(TABLE), TINY, seeds=3, sweep=True)
    assert len(configs) == len(TABLE) * 5 * 3
    assert all(TABLE[name].best in TABLE[name].rates and len(TABLE[name].rates) == 5 for name in TABLE)


def test_texts_that_cannot_serve(tmp_path):
    with pytest.raises(
        InputError, match=r"cannot read the text .*absent.txt \(No such file or directory\); give a readable file"
    ):
        text.from_file(tmp_path / "absent.txt")
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(InputError, match="has 5 bytes; give one of at least 20000"):
        text.from_file(tmp_path / "short.txt")


def test_the_command_shows_and_saves_a_comparison(prose, tmp_path):
    arguments = (
        "train",
        "--text",
        prose,
        "--steps",
        6,
        "--width",
        32,
        "--depth",
        1,
        "--optimizers",
        "celo2",
        "adamw",
        "--seeds",
        2,
    )
    done = celo2(*arguments, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Held-out loss, lowest first: " in done.stdout
    records = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    configs = [record["identity"]["config"] for record in records]
    assert [(c["optimizer"], c["seed"]) for c in configs] == [("celo2", 0), ("adamw", 0), ("celo2", 1), ("adamw", 1)]
    assert len(records[0]["losses"]) == 6
    with Image.open(tmp_path / "curves.png") as picture:
        assert min(picture.size) > 400

    kept = (tmp_path / "runs.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "runs.jsonl").write_text("".join(kept[:2]) + kept[2][:50])
    done = celo2(*arguments, "--out", tmp_path)
    assert "2 of 4 runs are in" in done.stdout
    again = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [r["losses"] for r in again] == [r["losses"] for r in records]

    done = celo2(*arguments, "--seed", 5, "--out", tmp_path)
    assert done.returncode == 2
    assert "holds another comparison (its run 1 is not of this one); give another --out, or delete it" in " ".join(
        done.stderr.split()
    )
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 4


def test_a_diverged_run_comes_last():
    config = RunConfig("adamw", 1.0, steps=2)
    bad = RunResult(config, [5.0, float("nan")], float("nan"), [0.1, 0.1])
    good = RunResult(RunConfig("celo2", 1.0, steps=2), [5.0, 4.0], 4.0, [0.1, 0.1])
    assert verdict(summarize([bad, good])) == "Held-out loss, lowest first: celo2 4.0000 at 1, adamw nan at 1."


def test_routing_command():
    done = celo2("routing", "celo2.evaluate.torch_demo.gpt:GPT")
    assert done.returncode == 0, done.stderr
    assert "output head (Linear" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("train", "--optimizers", "sgd"),
            "celo2 train: unknown optimizer 'sgd': take some of celo2, adamw, muon-0.95, muon-0.9",
        ),
        (
            ("train", "--text", "/absent"),
            "celo2 train: cannot read the text /absent (No such file or directory); give a readable file",
        ),
        (("train", "--optimizers"), "celo2 train: --optimizers names none; give at least one"),
        (("train", "--theta", "adam"), "celo2 train: unknown theta 'adam': neither a file nor one of celo2, celo2-base"),
        (("train", "--seed", "-1"), "celo2 train: --seed is -1; give at least 0"),
        (("train", "--steps", "1", "--out", "/dev/null"), "celo2 train: [Errno 17] File exists: '/dev/null'"),
        (("train", "--steps", "0"), "celo2 train: --steps is 0; give at least 1"),
        (("train", "--width", "100"), "celo2 train: --width is 100; give a multiple of 32, the width of a head"),
        (("meta-train", "--preset", "x"), "celo2 meta-train: unknown preset 'x': take one of celo2, quick"),
        (("routing", "absent:x"), "give module:callable, callable without arguments"),
        (("meta-train", "--outer-iterations", "3"), "outer_iterations is 3; give more than the 20 of the warm-up"),
        (("meta-train", "--trajectories", "0"), "celo2 meta-train: trajectories is 0; give at least 1"),
        (("listen", "nope"), "celo2 listen: unknown theta 'nope': neither a file nor one of celo2, celo2-base"),
        (("meta-train", "--processes", "2"), "--coordinator, --processes and --process go together; give all three or none"),
        (("experiments", "x"), "unknown experiment 'x': take some of 1-published-objective"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_two(arguments, message, tmp_path):
    done = celo2(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
