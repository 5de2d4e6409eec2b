"""Protects the benchmarks: each in small, as the command that makes the saved results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def run(*arguments):
    result = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
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


def test_gpt3_xl_in_small_takes_falling_steps(tmp_path):
    out = tmp_path / "xl.json"
    size = ["--layers", 2, "--width", 64, "--vocabulary", 100, "--context", 16, "--steps", 3]
    code, _, errors = run("benchmarks.gpt3_xl", *size, "--out", out)
    assert code == 0, errors
    losses = json.loads(out.read_text())["losses"]
    assert losses == sorted(losses, reverse=True)
