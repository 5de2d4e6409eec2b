"""Protects users of FSDP1: it is refused with the remedy, and never trained as vectors by AdamW."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.distributed
def test_fsdp1_is_refused_whichever_was_made_first(tmp_path):
    processes = []
    for rank in range(2):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "tests.torch.fsdp1_worker", str(tmp_path)]
        processes.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        )
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    for rank in range(2):
        messages = json.loads((tmp_path / f"{rank}.json").read_text())
        for order, message in messages.items():
            assert (
                "torch.distributed.fsdp.fully_shard (FSDP2) and make the optimizer after" in message
            ), order
        assert messages["original=True optimizer first=False"].startswith(
            "_fsdp_wrapped_module.0.weight was flattened"
        )
        assert messages["original=True optimizer first=True"].startswith("0.weight was flattened")
        assert messages["original=False optimizer first=True"].startswith(
            "no parameter has a gradient"
        )
