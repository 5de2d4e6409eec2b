"""Protects the tables of README and docs: they are those of the records."""

import json
from pathlib import Path

import pytest

from celo2 import InputError, load_theta
from celo2.evaluate.records import theta_key
from celo2.evaluate.report import DEMO_LEARNING_RATES, demo_learning_rates, filled, pages, update

ROOT = Path(__file__).parents[2]
SHIPPED = theta_key(load_theta("celo2"))


@pytest.mark.parametrize("page", [path.relative_to(ROOT) for path in pages(ROOT)], ids=str)
def test_a_page_agrees_with_the_records(page):
    text = (ROOT / page).read_text()
    assert filled(text, ROOT) == text, "run `celo2 report`"


def test_the_validation_table_holds_the_mean_of_the_reported_seeds():
    """Of one cell, computed here from the lines of the file: seed 0 has no part in it."""
    lines = (ROOT / "records/validation/runs.jsonl").read_text().splitlines()
    settings = {"momentum": 0.9, "learning_rate": 0.002, "adamw_lr_multiplier": 5.0}
    losses = {"muon": {}, "celo2": {}}
    for record in map(json.loads, lines):
        run = record["run"]
        if (run["problem"], run["steps"]) == ("fashion-mlp", 400):
            if run["optimizer"] == "muon" and run["settings"] == settings:
                losses["muon"][run["seed"]] = record["loss"]
            small = {"learning_rate": 0.002, "adamw_lr_multiplier": 5.0}
            if run["theta"] == SHIPPED and run["settings"] == small:
                losses["celo2"][run["seed"]] = record["loss"]
    mean = {name: sum(seeds[i] for i in (1, 2, 3)) / 3 for name, seeds in losses.items()}
    row = filled("<!-- table:validation -->\n<!-- /table -->", ROOT).splitlines()[3].split(" | ")
    assert row[0] == "| Celo2"
    assert float(row[3]) == pytest.approx(mean["celo2"] / mean["muon"], abs=5e-4)


def test_the_demo_runs_at_the_best_learning_rates_of_its_recorded_sweep():
    found = json.loads((ROOT / DEMO_LEARNING_RATES).read_text())
    assert found == demo_learning_rates(ROOT)
    assert found["adamw"] == 2e-3, "lowest held-out loss of its five: 2.2165"


def test_a_mark_without_a_table_and_a_folder_that_is_no_checkout_are_refused(tmp_path):
    with pytest.raises(InputError, match="no table is called 'x': take one of validation"):
        filled("<!-- table:x -->\n<!-- /table -->", ROOT)
    with pytest.raises(InputError, match="has no folder records; give the folder of a checkout"):
        update(tmp_path)


def test_a_table_without_a_row_says_so(tmp_path):
    """Tuned runs alone fill no table of sweeps."""
    lines = (ROOT / "records/benchmark/runs.jsonl").read_text().splitlines()
    runs = [line for line in lines if '"fashion-vae"' in line and '"adamw"' in line]
    folder = tmp_path / "records/benchmark"
    folder.mkdir(parents=True)
    (folder / "runs.jsonl").write_text("\n".join(runs) + "\n")
    page = "<!-- table:benchmark-{} -->\n<!-- /table -->"
    assert "no run is recorded yet" in filled(page.format("bands"), tmp_path)
    assert "no run is recorded yet" not in filled(page.format("tuned"), tmp_path)
