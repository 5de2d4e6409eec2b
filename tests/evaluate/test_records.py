"""Protects recorded runs: found by what decides them, shared by processes, never parsed wrongly."""

import json

import pytest

from celo2 import InputError
from celo2.evaluate.records import Records

RUN = {"problem": "tiny", "settings": {"b1": 0.9, "learning_rate": 0.5}, "seed": 0}


def test_a_run_is_found_whatever_the_order_of_its_fields(tmp_path):
    records = Records(tmp_path / "runs.jsonl")
    assert records.find(RUN) is None
    assert records.add(RUN, {"loss": 1.0}) == {"run": RUN, "loss": 1.0}
    turned = {"seed": 0, "settings": {"learning_rate": 0.5, "b1": 0.9}, "problem": "tiny"}
    assert Records(records.path).find(turned) == {"run": RUN, "loss": 1.0}
    assert records.find({**RUN, "seed": 1}) is None


def test_what_another_process_recorded_is_found_and_not_doubled(tmp_path):
    one, other = Records(tmp_path / "runs.jsonl"), Records(tmp_path / "runs.jsonl")
    one.add(RUN, {"loss": 1.0})
    assert other.find(RUN) == {"run": RUN, "loss": 1.0}
    assert other.add(RUN, {"loss": 2.0}) == {"run": RUN, "loss": 1.0}
    assert len(one.path.read_text().splitlines()) == 1


def test_of_two_lines_for_a_run_the_first_counts(tmp_path):
    path = tmp_path / "runs.jsonl"
    lines = [json.dumps({"run": RUN, "loss": loss}) + "\n" for loss in (1.0, 2.0)]
    path.write_text("".join(lines))
    assert [record["loss"] for record in Records(path)] == [1.0]


def test_a_line_without_a_run_is_refused(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"loss": 1.0}\n')
    with pytest.raises(InputError, match=r"line 1 of .*runs.jsonl is no run; delete that line"):
        Records(path)
