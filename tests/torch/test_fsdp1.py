"""Protects users of FSDP1: it is refused with the remedy, and never trained as vectors by AdamW."""

import json

import pytest

from tests.ranks import run_ranks


@pytest.mark.distributed
def test_fsdp1_is_refused_whichever_was_made_first(tmp_path):
    run_ranks(2, "-m", "tests.torch.fsdp1_worker", tmp_path, timeout=120)
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
