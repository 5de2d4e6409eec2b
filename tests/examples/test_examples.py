"""Protects who starts from an example: each runs as its first lines say."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from celo2 import load_theta

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_own_task_family(tmp_path):
    command = [sys.executable, str(EXAMPLES / "own_task_family.py"), "5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "theta in runs/sines/theta.safetensors"
    assert load_theta(tmp_path / "runs/sines/theta.safetensors").name == "sines"


def test_fsdp2_gpt(tmp_path):
    """By torchrun, as its first lines say."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        str(EXAMPLES / "fsdp2_gpt.py"),
        "12",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    losses = [
        float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("step")
    ]
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 1
    assert "blocks.0.qkv.weight         192x64  celo2  hidden matrix (Linear)" in done.stdout
    assert (tmp_path / "runs/fsdp2/.metadata").exists()


def test_ppo_minatar(tmp_path):
    """Two rollouts each; a first episode of Breakout hits a brick or none."""
    command = [sys.executable, str(EXAMPLES / "ppo_minatar.py"), "17000"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["Celo2", "Celo2", "Adam", "Adam"]
    assert [line[1] for line in lines] == ["8,192", "16,384"] * 2
    assert all(0 < float(line[-1]) < 5 for line in lines)
    assert lines[0][-1] == lines[2][-1], "the first rollout is of the same weights"


@pytest.fixture
def printed(capsys):
    """Run an example's `main` in this process; returns what it printed."""

    def run(name, *arguments):
        importlib.import_module(f"examples.{name}").main(*arguments)
        return capsys.readouterr().out

    return run


@pytest.mark.usefixtures("one_thread")
def test_vision_transformer(printed):
    lines = printed("vision_transformer", 60).splitlines()
    assert "patches.weight" in lines[1]
    assert float(lines[-1].rpartition(" ")[2]) > 0.3, "three times chance"


@pytest.mark.usefixtures("one_thread")
def test_fine_tuning(printed):
    shown = printed("fine_tuning", 60)
    assert "weight    5x128    adamw  stated by its group" in shown
    pretrained, tuned = re.findall(r"(\d\.\d\d) on the digits", shown)
    assert float(pretrained) > 0.9
    assert float(tuned) > 0.4, "twice chance"


def test_inspect_theta(printed):
    """An update is most like the latest gradient, and forgets one as momentum does."""
    shown = printed("inspect_theta", "celo2")
    assert shown.startswith("celo2@75c69ee02dc8a0f2\n")
    cosines = [float(line.split()[1]) for line in shown.splitlines()[-10:]]
    assert cosines[0] > 0.7
    assert cosines[1:] == pytest.approx([cosines[1] * 0.9**i for i in range(9)], abs=0.02)
