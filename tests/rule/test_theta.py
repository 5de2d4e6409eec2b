"""Protects the weights: what is loaded is what was saved, whole, with its constants; anything else is refused in a sentence."""

import json
import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

import celo2
from celo2 import InputError, Spec, Theta, load_theta
from tests.cases import REFERENCE, THETA


def test_reference_arrays_stack_in_order():
    np.testing.assert_array_equal(THETA.weights.w0[3:6], REFERENCE["w0__3"])
    np.testing.assert_array_equal(THETA.weights.w0[27:30], REFERENCE["w0__13"])


def test_a_file_gives_back_numbers_spec_name_and_provenance(tmp_path):
    theta = Theta(THETA.weights, Spec(orthogonalize=False), "mine", {"seed": 3, "data": {"digits": 1797}})
    theta.save(tmp_path / "a.safetensors")
    again = load_theta(tmp_path / "a.safetensors")
    assert (again.spec, again.name, dict(again.provenance)) == (theta.spec, "mine", theta.provenance)
    assert again.sha256 == theta.sha256
    for ours, theirs in zip(again.weights, theta.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(("name", "orthogonalize"), [("celo2", True), ("celo2-base", False)])
def test_shipped_thetas_know_where_they_come_from(name, orthogonalize):
    theta = load_theta(name)
    assert theta.name == name
    assert theta.spec.orthogonalize is orthogonalize
    assert {"config", "data", "commit", "minutes", "date"} <= set(theta.provenance)
    assert "seed" in theta.provenance["config"]
    assert "dirty" not in theta.provenance["commit"]
    assert name in celo2.shipped()


def test_the_spec_survives_json_and_refuses_other_fields():
    spec = Spec(hidden=4, momentum_decays=(0.5, 0.6, 0.7))
    assert Spec.from_json(spec.to_json()) == spec
    with pytest.raises(InputError, match=r"missing or unknown fields \['colour'\]"):
        Spec.from_json(json.dumps({**json.loads(spec.to_json()), "colour": 1}))
    with pytest.raises(InputError, match="is no JSON"):
        Spec.from_json("{")


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "theta.safetensors"
    THETA.save(path)
    return path


def test_every_truncation_is_refused(saved):
    content = saved.read_bytes()
    for length in (0, 4, 100, len(content) // 2, len(content) - 1):
        saved.write_bytes(content[:length])
        with pytest.raises(InputError, match="is not a whole safetensors file"):
            load_theta(saved)


@pytest.mark.parametrize("place", ["a number", "the name", "the provenance", "the spec", "the format"])
def test_an_alteration_anywhere_is_refused(saved, place):
    content = saved.read_bytes()
    words = {
        "the name": b"reference",
        "the provenance": b"provenance",
        "the spec": b"orthogonalize",
        "the format": b"celo2-theta",
    }
    at = len(content) - 3 if place == "a number" else content.index(words[place])
    saved.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(InputError, match=r"was altered|but not a theta of format"):
        load_theta(saved)


def test_other_files_are_refused(tmp_path):
    pickled = tmp_path / "theta.state"
    pickled.write_bytes(pickle.dumps(REFERENCE))
    with pytest.raises(InputError, match="is not a whole safetensors file"):
        load_theta(pickled)
    save_file({"w0": np.zeros((30, 8), np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="but not a theta of format"):
        load_theta(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="unknown theta 'adam': neither a file nor one of celo2, celo2-base"):
        load_theta("adam")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w1": np.zeros((8, 9), np.float32)}, r"w1 of theta 'reference' has shape \(8, 9\), the rule needs \(8, 8\)"),
        ({"b0": np.full(8, np.nan, np.float32)}, "b0 of theta 'reference' holds something other than finite floats"),
        ({"w0__0": np.zeros((2, 8), np.float32)}, r"w0 of theta 'reference' has shape \(31, 8\)"),
        ({"w0__0": np.zeros(8, np.float32)}, r"each must be \(channels, 8\)"),
        ({"extra": np.zeros(8)}, r"missing or unknown here: \['extra'\]"),
    ],
)
def test_reference_arrays_that_do_not_fit(change, message):
    with pytest.raises(InputError, match=message):
        Theta.from_reference({**REFERENCE, **change})


def test_a_missing_reference_array_is_named():
    with pytest.raises(InputError, match=r"missing or unknown here: \['b1'\]"):
        Theta.from_reference({key: value for key, value in REFERENCE.items() if key != "b1"})
