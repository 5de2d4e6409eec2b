"""Protects a meta-training folder: damage is one sentence, and nothing of it is overwritten."""

import pickle

import numpy as np
import pytest

from celo2 import InputError
from celo2.meta.checkpoint import Checkpoint, theta_of
from celo2.meta.config import MetaConfig
from celo2.meta.outer import OuterState


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"", "config.json is damaged .*; delete its folder, or give another"),
        ("config.json", b"\xff", "config.json is damaged"),
        ("config.json", b"[]", "config.json holds no configuration"),
        ("state.npz", b"", "state.npz is damaged .*; delete its folder, or give another"),
        ("state.npz", b"PK\x03\x04cut", "state.npz is damaged"),
        ("state.npz", pickle.dumps({"a": 1}), "state.npz is damaged"),
    ],
)
def test_a_damaged_folder_is_refused_and_stays(tmp_path, name, content, message):
    config = MetaConfig()
    Checkpoint(tmp_path, config, [])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        Checkpoint(tmp_path, config, []).restore({"a": np.zeros(2)})
    assert (tmp_path / name).read_bytes() == content


def test_a_state_that_lacks_an_array_is_refused(tmp_path):
    kept = Checkpoint(tmp_path, MetaConfig(), [])
    np.savez(tmp_path / "state.npz", other=np.zeros(2))
    with pytest.raises(InputError, match=r"state.npz lacks .step; delete its folder, or give"):
        kept.restore(OuterState(np.zeros(2), (), (), np.int32(1)))
    with pytest.raises(InputError, match=r"state.npz lacks .theta.w0; delete its folder"):
        theta_of(tmp_path)


def test_metrics_that_are_not_utf8_do_not_end_a_run(tmp_path):
    kept = Checkpoint(tmp_path, MetaConfig(), [])
    state = OuterState(np.zeros(2), (), (), np.int32(1))
    kept.save(state, 2.0)
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\n\xfe\n")
    restored, seconds = kept.restore(state)
    assert (restored.step, seconds) == (1, 2.0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"\xff\n"
