"""Protects the benchmarks: each in small, as the command that makes the saved results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import side_by_side
from celo2.evaluate.baselines import ADAMW
from celo2.evaluate.suites import Problem
from tests.families import Quadratic

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def run(*arguments):
    result = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # networks are too small for more
    )
    return result.returncode, result.stdout, result.stderr


def test_steps_are_timed_and_settings_kept_beside_each_other(tmp_path):
    out = tmp_path / "steps.json"
    small = [
        "--models",
        "gpt-64",
        "--layers",
        1,
        "--optimizers",
        "muon",
        "celo2-eager",
        "naive",
        "--repeats",
        2,
        "--out",
        out,
    ]
    for dtypes in (["float32"], ["float32", "bfloat16"]):
        code, shown, errors = run("benchmarks.optimizer_step", *small, "--dtypes", *dtypes)
        assert code == 0, errors
    assert "naive" in shown
    settings = json.loads(out.read_text())["settings"]
    assert [(s["model"], s["dtype"], s["origin"]["layers"]) for s in settings] == [
        ("gpt-64", d, 1) for d in dtypes
    ]
    for setting in settings:
        muon, celo2, naive = setting["measurements"]
        assert all(len(m["seconds"]) == 2 and min(m["seconds"]) > 0 for m in (muon, celo2, naive))
        assert muon["state_bytes"] < celo2["state_bytes"]
    assert out.with_suffix(".png").read_bytes()[1:4] == b"PNG"


def test_a_sweep_is_timed_side_by_side_and_one_by_one():
    tiny = Problem("tiny", Quadratic, 20)
    row = side_by_side.measure(tiny, ADAMW, side_by_side.Config(runs=2, turns=1))
    assert set(row) == {"seconds", "ratio"}
    assert row["seconds"] >= 0 < row["ratio"]


def test_gpt3_xl_in_small_takes_falling_steps(tmp_path):
    out = tmp_path / "xl.json"
    size = ["--layers", 2, "--width", 64, "--vocabulary", 100, "--context", 16, "--steps", 3]
    code, _, errors = run("benchmarks.gpt3_xl", *size, "--out", out)
    assert code == 0, errors
    losses = json.loads(out.read_text())["losses"]
    assert losses == sorted(losses, reverse=True)


def test_gpt2_stops_and_goes_on_bit_for_bit(tmp_path):
    size = ["--device", "cpu", "--width", 32, "--layers", 1, "--heads", 2, "--vocabulary", 300]
    size += ["--context", 16, "--batch", 2, "--tokens", 160, "--learning-rates", 1e-3]
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {i} of a text that counts its lines\n" for i in range(2000)))
    size += ["--text", text]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    code, shown, errors = run("benchmarks.gpt2", *size, "--out", whole)
    assert code == 0, errors
    assert "celo2-total-steps" in shown
    for optimizer in ("celo2-total-steps", "muon"):
        one = [*size, "--out", cut, "--optimizers", optimizer]
        code, shown, errors = run("benchmarks.gpt2", *one, "--minutes", 0)  # one step, and saves
        assert code == 0, errors
        assert "run the same command to go on" in shown
        assert run("benchmarks.gpt2", *one)[0] == 0
    found = []
    for folder in (whole, cut):
        lines = map(json.loads, (folder / "runs.jsonl").read_text().splitlines())
        results = {
            x["run"]["optimizer"]: (x["run"], x["losses"], x["held_out_loss"]) for x in lines
        }
        found.append(results)
    assert list(found[0]) == ["celo2-total-steps", "celo2", "muon", "adamw"]
    assert found[1] == {name: found[0][name] for name in ("celo2-total-steps", "muon")}


def test_meta_training_is_timed_at_a_number_of_trajectories(tmp_path):
    out = tmp_path / "meta.json"
    code, _, errors = run(
        "benchmarks.meta_speed",
        *("--trajectories", 8, "--ways", "celo2", "--no-profile", "--out", out),
    )
    assert code == 0, errors
    speeds = json.loads(out.read_text())["steps per second"]["8"]
    assert min(speeds["celo2 forward"], speeds["celo2 gradients"]) > 0
