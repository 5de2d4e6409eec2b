"""Protects the recorded experiments: each can be read, scored, and run again or says why not."""

import json
from pathlib import Path

import pytest

from celo2 import InputError
from celo2.evaluate.experiments import Experiment, mean_ratio, muon_scores, ratios, read, write
from celo2.evaluate.suites import VALIDATION
from celo2.meta.config import from_settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "records" / "experiments"
MUON = muon_scores(ROOT / "records" / "validation" / "runs.jsonl")


def test_losses_of_muon_come_from_the_records():
    rounded = {seed: round(loss, 4) for seed, loss in MUON["fashion-mlp"].losses.items()}
    assert rounded == {0: 0.3440, 1: 0.3517, 2: 0.3612}


def test_a_ratio_is_to_muon_on_the_same_seeds():
    muon = {name: list(score.losses.values()) for name, score in MUON.items()}
    as_muon = Experiment("as-muon", "", None, {"losses": muon})
    assert mean_ratio(ratios(as_muon, MUON)) == pytest.approx(1)
    few = {**muon, "byte-lstm": [0.5 * muon["byte-lstm"][0]]}
    found = ratios(Experiment("few-seeds", "", None, {"losses": few}), MUON)
    assert found["byte-lstm"] == pytest.approx(0.5)
    assert mean_ratio(found) == pytest.approx(0.9)
    assert mean_ratio({"byte-lstm": 0.5}) == float("inf"), "a mean is of all problems or none"


def test_every_recorded_experiment_can_be_run_again_or_says_why_not():
    experiments = read(FOLDER)
    assert list(experiments) == sorted(experiments), "names sort in order of time"
    assert len(experiments) >= 40
    for name, experiment in experiments.items():
        assert name[:3].isdigit()
        assert experiment.question
        assert set(experiment.result["losses"]) <= set(VALIDATION)
        if experiment.patch:
            assert (ROOT / experiment.patch["file"]).is_file()
            commit = experiment.patch["commit"]
            with pytest.raises(InputError, match=f"is of another rule; check out {commit}"):
                experiment.settings_to_run()
            settings = dict(experiment.settings)
            settings.pop("inner.spec.features", None)  # a patch may add one
            assert from_settings(settings)
        elif experiment.settings is None:
            with pytest.raises(InputError, match="was not trained for it"):
                experiment.settings_to_run()
        else:
            assert from_settings(experiment.settings_to_run())


def test_a_written_experiment_is_read_again(tmp_path):
    experiment = Experiment("030-new", "why?", {"odd": True}, {"minutes": 1.5, "losses": {}})
    write(experiment, tmp_path)
    assert read(tmp_path) == {"030-new": experiment}
    untrained = Experiment("031-mean", "why?", None)
    write(untrained, tmp_path)
    assert read(tmp_path)["031-mean"] == untrained


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "001-bad.json is no experiment .*utf-8.*it needs question"),
        (b"{", "001-bad.json is no experiment"),
        (b"[]", "001-bad.json is no experiment"),
        (b'{"question": "", "settings": null, "other": 1}', "unexpected keyword argument 'other'"),
        (
            json.dumps(
                {"question": "", "settings": None, "result": {"losses": {"x": [1]}}}
            ).encode(),
            "001-bad.json has losses of 'x'; the problems are byte-transformer",
        ),
    ],
)
def test_a_file_that_is_no_experiment_is_named(tmp_path, content, message):
    (tmp_path / "001-bad.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path)
