"""Protects the weights: what is loaded is what was saved, with its constants."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save, save_file
from safetensors.torch import save_file as save_torch

import celo2
from celo2 import InputError, Spec, Theta, load_theta
from celo2.theta import _checksum
from tests.cases import REFERENCE, THETA


def test_reference_arrays_stack_in_order():
    np.testing.assert_array_equal(THETA.weights.w0[3:6], REFERENCE["w0__3"])
    np.testing.assert_array_equal(THETA.weights.w0[27:30], REFERENCE["w0__13"])


def test_a_file_gives_back_numbers_spec_name_and_provenance(tmp_path):
    theta = Theta(
        THETA.weights,
        Spec(newton_schulz=False, everywhere=True),
        "mine",
        {"seed": 3, "data": {"digits": 1797}},
    )
    theta.save(tmp_path / "a.safetensors")
    again = load_theta(tmp_path / "a.safetensors")
    assert (again.spec, again.name, dict(again.provenance)) == (
        theta.spec,
        "mine",
        theta.provenance,
    )
    assert again.sha256 == theta.sha256
    for ours, theirs in zip(again.weights, theta.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(("name", "orthogonalize"), [("celo2", True), ("celo2-base", False)])
def test_shipped_thetas_know_where_they_come_from(name, orthogonalize):
    theta = load_theta(name)
    assert theta.name == name
    assert theta.spec.newton_schulz is orthogonalize
    assert {"config", "data", "commit", "minutes", "date"} <= set(theta.provenance)
    assert "seed" in theta.provenance["config"]
    assert "dirty" not in theta.provenance["commit"]
    assert name in celo2.shipped()


def test_the_spec_survives_json_and_refuses_other_fields():
    spec = Spec(hidden=4, momentum_decays=(0.5, 0.6, 0.7))
    assert Spec.from_json(spec.to_json()) == spec
    with pytest.raises(InputError, match=r"unknown fields \['color'\]"):
        Spec.from_json(json.dumps({**json.loads(spec.to_json()), "color": 1}))
    with pytest.raises(InputError, match="is not JSON"):
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
        with pytest.raises(InputError, match="is not a complete safetensors file"):
            load_theta(saved)


@pytest.mark.parametrize(
    "place", ["a number", "the name", "the provenance", "the spec", "the format"]
)
def test_an_alteration_anywhere_is_refused(saved, place):
    content = saved.read_bytes()
    words = {
        "the name": b"reference",
        "the provenance": b"provenance",
        "the spec": b"newton_schulz",
        "the format": b"celo2-theta",
    }
    at = len(content) - 3 if place == "a number" else content.index(words[place])
    saved.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(InputError, match=r"was altered|but not a theta of format"):
        load_theta(saved)


def test_other_files_are_refused(tmp_path):
    pickled = tmp_path / "theta.state"
    pickled.write_bytes(pickle.dumps(REFERENCE))
    with pytest.raises(InputError, match="is not a complete safetensors file"):
        load_theta(pickled)
    save_file({"w0": np.zeros((30, 8), np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="but not a theta of format"):
        load_theta(tmp_path / "other.safetensors")
    with pytest.raises(
        InputError, match="unknown theta 'adam': neither a file nor one of celo2, celo2-base"
    ):
        load_theta("adam")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"w1": np.zeros((8, 9), np.float32)},
            r"w1 of theta 'reference' has shape \(8, 9\), the rule needs \(8, 8\)",
        ),
        (
            {"b0": np.full(8, np.nan, np.float32)},
            "b0 of theta 'reference' holds something other than finite floats",
        ),
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


def header(metadata, weights=THETA.weights):
    """A file with this header whose checksum is right."""
    checksum = _checksum(metadata, weights)
    return save(weights._asdict(), {**metadata, "checksum": checksum})


WHOLE = {"format": "celo2-theta-2", "name": "x", "spec": Spec().to_json(), "provenance": "{}"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "lacks a name, a spec or a provenance"),
        ({"spec": None}, "lacks a name, a spec or a provenance"),
        ({"provenance": "{"}, "lacks a name, a spec or a provenance"),
        ({"spec": '{"momentum_decays": [2.0, 0.9, 0.9]}'}, "each must be at least 0 and below 1"),
        ({"spec": '{"momentum_decays": [0.9, 0.99]}'}, "give as many of each"),
        ({"spec": '{"feature_clip": null}'}, "feature_clip None; give a number above 0"),
        ({"spec": '{"gradient_clip": NaN}'}, "gradient_clip nan; give a number above 0"),
        (
            {"spec": '{"newton_schulz_iterations": 1000000000000}'},
            r"must lie in 1..1024 and 0..100",
        ),
        ({"spec": '{"features": ["G", "Q"]}'}, "take some of G, "),
        *[
            ({"spec": f'{{"newton_schulz_coefficients": {value}}}'}, "give a tuple of three finite")
            for value in ("[]", "[[3, NaN, 2]]", "[3, -4]", "[[3, -4, 2], 2]", "3", "true")
        ],
    ],
)
def test_a_crafted_header_is_refused_in_a_sentence(tmp_path, change, message):
    metadata = {key: value for key, value in {**WHOLE, **change}.items() if value is not None}
    path = tmp_path / "crafted.safetensors"
    path.write_bytes(header(metadata))
    with pytest.raises(InputError, match=message):
        load_theta(path)


def test_bfloat16_arrays_are_refused(tmp_path):
    tensors = {name: torch.from_numpy(w).bfloat16() for name, w in THETA.weights._asdict().items()}
    save_torch(tensors, tmp_path / "half.safetensors", WHOLE)
    code = f"import celo2; celo2.load_theta({str(tmp_path / 'half.safetensors')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "InputError" in done.stderr.splitlines()[-1]


def test_a_number_that_overflows_float32_is_refused():
    huge = THETA.weights._replace(b2=np.array([1e300, 0, 0]))
    with pytest.raises(InputError, match="something other than finite floats"):
        Theta(huge)


@pytest.mark.parametrize("source", [None, 3, "x" * 5000, b"adam", "a\0b"])
def test_sources_that_are_no_theta(source):
    with pytest.raises(InputError, match="theta"):
        load_theta(source)


def test_a_theta_saved_through_a_link_replaces_the_file(tmp_path):
    target, link = tmp_path / "target.safetensors", tmp_path / "link.safetensors"
    THETA.save(target)
    link.symlink_to(target)
    Theta.random(0).save(link)
    assert link.is_symlink()
    assert load_theta(target).name == "random"


def test_identities_do_not_depend_on_fields_that_have_their_published_value():
    assert Spec().changes() == {}
    assert Spec(hidden=4).changes() == {"hidden": 4}
