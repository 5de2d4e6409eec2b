"""Protects `celo2 train`: a comparison is shown, recorded, resumed, and runs twice at once."""

import json
import subprocess
import sys

import pytest
from PIL import Image
from rich.console import Console

from celo2.cli import main
from celo2.cli.train import verdict
from celo2.evaluate.torch_demo.compare import summarize
from celo2.evaluate.torch_demo.train import RunConfig, RunResult
from tests.cli.test_main import celo2


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "notes [draft] $x$.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 1000)
    return path


def command(prose, out, *more):
    sizes = ["--steps", 6, "--width", 32, "--depth", 1, "--optimizers", "celo2", "adamw"]
    arguments = ["train", "--text", prose, *sizes, "--seeds", 2, "--out", out, *more]
    return [str(argument) for argument in arguments]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_comparison_is_shown_recorded_and_resumed(prose, tmp_path, capsys):
    out = tmp_path / "x[/y]z"
    main(command(prose, out))
    shown = capsys.readouterr().out
    assert "24 of 24 after 0:00:" in shown, "no terminal, so progress is told in lines"
    assert "Held-out loss, lowest first: " in shown
    assert "notes [draft] $x$.txt" in shown
    records = lines(out / "runs.jsonl")
    configs = [record["run"]["config"] for record in records]
    found = [(c["optimizer"], c["seed"]) for c in configs]
    assert found == [("celo2", 0), ("adamw", 0), ("celo2", 1), ("adamw", 1)]
    assert configs[1]["learning_rate"] == 2e-3
    assert len(records[0]["losses"]) == 6
    with Image.open(out / "curves.png") as picture:
        assert min(picture.size) > 400

    kept = (out / "runs.jsonl").read_bytes().splitlines(keepends=True)
    (out / "runs.jsonl").write_bytes(b"".join(kept[:2]) + kept[2][:50])
    main(command(prose, out))
    assert "2 of 4 runs are in" in capsys.readouterr().out
    assert [r["losses"] for r in lines(out / "runs.jsonl")] == [r["losses"] for r in records]

    main(command(prose, out, "--seed", 1, "--seeds", 1))
    assert "2 of 2 runs are in" in capsys.readouterr().out, "runs of other comparisons serve"


@pytest.mark.slow
def test_two_at_once_share_one_folder(prose, tmp_path):
    arguments = [sys.executable, "-m", "celo2.cli", *command(prose, tmp_path)]
    both = [subprocess.Popen(arguments, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    runs = [json.dumps(record["run"]) for record in lines(tmp_path / "runs.jsonl")]
    assert len(set(runs)) == len(runs) == 4
    assert celo2(*command(prose, tmp_path)).returncode == 0


@pytest.mark.slow
def test_a_terminal_without_the_sign_shows_the_table(prose, tmp_path):
    done = celo2(*command(prose, tmp_path), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b" +- " in done.stdout


def test_a_diverged_run_comes_last():
    nan = float("nan")
    bad = RunResult(RunConfig("adamw", 1.0, steps=2), [5.0, nan], nan, [0.1, 0.1])
    good = RunResult(RunConfig("celo2", 1.0, steps=2), [5.0, 4.0], 4.0, [0.1, 0.1])
    expected = "Held-out loss, lowest first: celo2 4.0000 at 1, adamw nan at 1."
    assert verdict(summarize([bad, good]), Console()) == expected
