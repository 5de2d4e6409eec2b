"""Checkpoints of learned optimizers as flat mappings of names to arrays; nothing is unpickled.

The authors write flax msgpack: maps nested by name, each array an extension of type 1 whose payload
is msgpack again, (shape, dtype name, raw little-endian bytes). VeLO's lies under the key "params"
beside a generation and a step count.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from celo2 import files
from celo2.errors import InputError

ARRAY = 1
"""Msgpack extension type of an array."""
DTYPES = ("float16", "float32", "float64")


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a flax msgpack or safetensors file; nested names are joined by slashes.

    Raises:
        InputError: there is no such file, or it is neither of the two.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the checkpoint {path} ({error.strerror}); pass the path of the file"
        ) from error
    try:
        # A safetensors file begins with the length of its header in eight bytes, and the header is
        # JSON.
        return load(data) if data[8:9] == b"{" else _read_msgpack(data)
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path} is not a whole flax msgpack or safetensors checkpoint of arrays ({reason}); "
            "pass the file as its authors publish it"
        ) from error


def convert_checkpoint(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Write the arrays of a flax msgpack checkpoint to a safetensors file, bit for bit.

    `target` appears whole or not at all. Its header records the hash of the source; add the notice
    of its license where you pass the file on.

    Raises:
        InputError: `source` is not a checkpoint.
    """
    arrays = read_checkpoint(source)
    source = Path(source)
    metadata = {
        "source": source.name,
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "change": "container converted from msgpack; values bit-identical",
    }
    files.write(target, save(arrays, metadata))


def _read_msgpack(data: bytes) -> dict[str, np.ndarray]:
    import msgpack

    tree = msgpack.unpackb(data, ext_hook=_array)
    if not isinstance(tree, dict):
        raise ValueError(f"it holds a {type(tree).__name__}, not a map of arrays")
    arrays: dict[str, np.ndarray] = {}
    _flatten(tree.get("params", tree), "", arrays)
    return arrays


def _array(code: int, payload: bytes) -> np.ndarray:
    """Decode one msgpack extension."""
    import msgpack

    if code != ARRAY:
        raise ValueError(f"it holds an extension of type {code}")
    shape, dtype, data = msgpack.unpackb(payload)
    if dtype not in DTYPES:
        raise ValueError(f"it holds an array of {dtype!r}")
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)


def _flatten(tree: Any, name: str, arrays: dict[str, np.ndarray]) -> None:
    """Add the arrays of a nested map to `arrays`."""
    if isinstance(tree, np.ndarray):
        arrays[name] = tree
    elif isinstance(tree, dict):
        for key, branch in tree.items():
            _flatten(branch, f"{name}/{key}" if name else str(key), arrays)
    else:
        raise ValueError(f"{name!r} is a {type(tree).__name__}, not an array")
