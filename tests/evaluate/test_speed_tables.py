"""Protects the tables of records/speed: medians and ratios of small records, known by hand."""

import json

import pytest

from celo2.evaluate.speed_tables import (
    meta_parts,
    meta_speed,
    optimizer_step,
    optimizer_step_ratios,
)

PARAMETERS = 10


def measured(optimizer, *seconds):
    memory = {"parameters": PARAMETERS, "state_bytes": 135, "temporary_bytes": 0}
    return {"optimizer": optimizer, "first_step_seconds": 9.04, "seconds": seconds, **memory}


@pytest.fixture
def root(tmp_path):
    """A checkout with the steps of two models; the first step of each is an outlier."""
    steps = [
        measured("adamw", 9.0, 0.002, 0.002),
        measured("muon", 9.0, 0.1, 0.1),
        measured("muon-float32", 9.0, 0.4, 0.4),
        measured("celo2", 9.0, 0.3, 0.1),
        measured("celo2-bf16", 9.0, 0.2, 0.2),
        measured("naive", 9.0, 1.0, 1.0),
    ]
    settings = []
    for model in ("vit-b", "gpt2-small"):
        settings.append({"model": model, "dtype": "float32", "measurements": steps})
    ways = ("naive", "naive, sharded", "celo2, one device", "celo2")
    speeds = {}
    for kind in ("forward", "gradients"):
        speeds |= {f"{way} {kind}": 1000.0 * (i + 1) for i, way in enumerate(ways)}
    parts = {"all": 173.4, "Newton-Schulz by autodiff": 188.0, "without Newton-Schulz": 142.0}
    parts |= {"and without the MLP": 119.0, "gradient descent": 25.0}
    meta = {"steps per second": {"8": speeds}, "profile": {"microseconds": parts}}
    (tmp_path / "records/speed").mkdir(parents=True)
    for name, content in (("optimizer-step", {"settings": settings}), ("meta-speed", meta)):
        (tmp_path / f"records/speed/{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_a_step_is_the_median_and_ratios_are_of_medians(root):
    rows = {row[0]: row[1:] for row in optimizer_step(root).rows}
    assert rows["Celo2, compiled"] == ("13.5", "300 ms", "0.75", "150.00", "9.0 s")
    assert len(rows) == 5, "the naive form was measured for its ratio alone"


def test_each_model_has_a_row_of_ratios(root):
    table = optimizer_step_ratios(root)
    assert table.header[1:3] == ("celo2 / muon-float32", "celo2 / muon")
    assert [row[0] for row in table.rows] == ["vit-b, float32", "gpt2-small, float32"]
    assert table.rows[0][1:] == ("0.75", "3.00", "2.00", "150.00")


def test_meta_training_is_compared_with_the_naive_baseline(root):
    forward, gradients = meta_speed(root).rows
    assert forward == ("8", "forward", "1,000", "2,000", "3,000", "4,000", "4.0")
    assert gradients[1] == "with gradients"
    assert ("all of it", "173 μs") in meta_parts(root).rows
