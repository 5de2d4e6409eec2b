"""Protects who starts from an example: each runs as its first lines say."""

import subprocess
import sys
from pathlib import Path

from celo2 import load_theta

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_own_task_family(tmp_path):
    command = [sys.executable, str(EXAMPLES / "own_task_family.py"), "5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "theta in runs/sines/theta.safetensors"
    assert load_theta(tmp_path / "runs/sines/theta.safetensors").name == "sines"
