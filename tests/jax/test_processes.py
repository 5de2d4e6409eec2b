"""Protects training by several processes: on a mesh over two of them the numbers of one."""

import os
import socket

import numpy as np
import pytest

from tests.jax.process_worker import KINDS, train
from tests.ranks import run_ranks

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes of two devices each made."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2")
    worker = "tests.jax.process_worker"
    run_ranks(2, "-m", worker, folder, address, timeout=480, XLA_FLAGS=flags)
    return folder


@pytest.fixture(scope="module")
def expected():
    return train(lambda arrays: arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_one_process(folder, expected, kind):
    with np.load(folder / f"{kind}.npz") as found:
        for name, p in expected.items():
            np.testing.assert_allclose(found[name], p, rtol=0, atol=1e-5, err_msg=name)
