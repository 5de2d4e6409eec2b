"""Protects the weights: the shipped ones are the published ones, and only checkpoints are read."""

import hashlib
import pickle

import flax.serialization
import msgpack
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from celo2 import InputError
from celo2.baselines import celo, celo_adam, convert_checkpoint, load_celo, load_velo
from tests.baselines.golden import WEIGHTS, cases, formula_theta

VELO = cases("velo")[0].theta


def nested(arrays):
    """The tree that haiku makes and flax writes: `rnn/linear` is one key with a slash."""
    tree = {}
    for name, array in arrays.items():
        room, rest = name.split("/", 1)
        keys = [room, *rest.rsplit("/", 1)] if "/" in rest else [room, rest]
        branch = tree
        for key in keys[:-1]:
            branch = branch.setdefault(key, {})
        branch[keys[-1]] = array
    return tree


def write(path, arrays, wrapped=True):
    tree = nested(arrays)
    tree = {"params": tree, "gen_id": "a generation", "step": 7} if wrapped else tree
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    return path


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        if isinstance(x, tuple):
            assert_same(x, y)
        else:
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("wrapped", [True, False])
def test_velo_is_read_from_flax_msgpack_bit_for_bit(tmp_path, wrapped):
    theta = load_velo(write(tmp_path / "params", VELO, wrapped))
    np.testing.assert_array_equal(theta.bank.w0[:, 3:6], VELO["ff_mod_stack/~/w0__3"])
    np.testing.assert_array_equal(theta.recurrent.gates.w, VELO["rnn_params/rnn/linear/w"])
    np.testing.assert_array_equal(theta.control.b, VELO["rnn_params/rnn_to_controls/b"])


def test_a_velo_of_the_published_size_is_read(tmp_path):
    arrays = formula_theta(30, 512, 256)
    assert sum(array.size for array in arrays.values()) == 2_320_385
    theta = load_velo(write(tmp_path / "params", arrays))
    assert theta.control.w.shape == (512, 256)


def test_a_conversion_to_safetensors_keeps_every_array(tmp_path):
    source = write(tmp_path / "params", VELO)
    convert_checkpoint(source, tmp_path / "velo.safetensors")
    converted = load_file(tmp_path / "velo.safetensors")
    assert converted.keys() == VELO.keys()
    for name, array in VELO.items():
        np.testing.assert_array_equal(converted[name], array)
    assert_same(load_velo(source), load_velo(tmp_path / "velo.safetensors"))
    with safe_open(tmp_path / "velo.safetensors", "numpy") as file:
        assert file.metadata()["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params", "velo.safetensors"]


def test_celo_is_read_from_its_authors_format_too(tmp_path):
    arrays = load_file(WEIGHTS / "celo.safetensors")
    assert_same(
        load_celo(write(tmp_path / "theta.state", arrays, wrapped=False)), load_celo("celo")
    )


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("celo", "1b9a30165e7c2a5c537f30978231a7987312708eef965cc9d08410053c1116ef"),
        ("celo-adam", "b42d6f0bec1e4a9aed66d53908a9475a4f6d7f2bc9ecdc3aecac3fc435f1f322"),
    ],
)
def test_shipped_weights_are_the_published_ones_with_their_notice(name, sha256):
    path = WEIGHTS / f"{name}.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    with safe_open(path, "numpy") as file:
        assert file.metadata()["license"] == "MIT"
        assert file.metadata()["copyright"] == "Copyright (c) 2025 Abhinav Moudgil"
    assert sha256 in (WEIGHTS / "README.md").read_text()


def broken():
    """Bytes that are no checkpoint of VeLO, by what is wrong with them."""
    good = flax.serialization.msgpack_serialize(nested(VELO))
    not_finite = nested(VELO | {"lstm_init_state/cell": np.full((1, 16), np.nan, np.float32)})
    wrong_shape = nested(VELO | {"rnn_params/linear_1/w": np.zeros((30, 15), np.float32)})
    cut_array = msgpack.ExtType(1, msgpack.packb(((2,), "float32", b"123")))
    objects = msgpack.ExtType(1, msgpack.packb(((1,), "object", b"12345678")))
    return {
        "empty": b"",
        "text": b"an HTML page that says: not found",
        "cut": good[: len(good) // 2],
        "longer": good + b"\x00",
        "pickle": pickle.dumps(VELO),
        "other map": msgpack.packb({"weights": [1, 2, 3]}),
        "list": msgpack.packb([1, 2]),
        "cut array": msgpack.packb({"a": cut_array}),
        "objects": msgpack.packb({"a": objects}),
        "extension": msgpack.packb({"a": msgpack.ExtType(9, b"")}),
        "deep": b"\x81\xa1a" * 5000 + b"\xc0",
        "not finite": flax.serialization.msgpack_serialize(not_finite),
        "wrong shape": flax.serialization.msgpack_serialize(wrong_shape),
        "cut safetensors": b'\x10\x00\x00\x00\x00\x00\x00\x00{"a": 1',
    }


@pytest.mark.parametrize("name", broken())
def test_a_file_that_is_no_checkpoint_is_refused_in_a_sentence(tmp_path, name):
    path = tmp_path / "params"
    path.write_bytes(broken()[name])
    with pytest.raises(InputError, match=str(path)):
        load_velo(path)


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path):
    with pytest.raises(InputError, match="this optimizer needs"):
        load_velo(WEIGHTS / "celo.safetensors")
    with pytest.raises(InputError, match="this optimizer needs"):
        load_celo(write(tmp_path / "params", VELO))
    with pytest.raises(InputError, match=r"has no array.*two axes"):
        load_velo(WEIGHTS / "celo-adam.safetensors")
    with pytest.raises(InputError, match="pass it to celo_adam"):
        celo(10, "celo-adam")
    celo_adam(10, "celo")  # its MLP is not used


def test_integers_are_no_weights(tmp_path):
    save_file(VELO | {"ff_mod_stack/~/b0": np.zeros((8, 4), np.int32)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="finite floats"):
        load_velo(tmp_path / "a.safetensors")


@pytest.mark.parametrize("load", [load_celo, load_velo])
def test_a_file_that_is_not_there(load, tmp_path):
    with pytest.raises(InputError, match="nothing"):
        load(tmp_path / "nothing")
