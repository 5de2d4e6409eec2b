"""Protects sharded training: results of one process on two and four ranks, and what is sent."""

import json
from collections import Counter

import pytest
import torch

from tests.ranks import run_ranks
from tests.torch.distributed_worker import (
    VARIANTS,
    Model,
    data_parallel,
    in_bfloat16,
    layouts,
    odd_gradients,
    optimizer,
    steps,
    whole,
)

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:gradients that are not finite:RuntimeWarning"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What four processes made, and then two, which resume from a checkpoint of the four."""
    folders = {size: tmp_path_factory.mktemp(f"ranks-{size}") for size in (4, 2)}
    for size, folder in folders.items():
        run_ranks(size, "-m", "tests.torch.distributed_worker", folder, folders[4], timeout=240)
    return folders


def load(folder):
    return torch.load(folder / "results.pt", weights_only=True)


def check_close(actual, expected):
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=0, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("orthogonalize", [True, False])
@pytest.mark.parametrize(("size", "layout"), [(4, "fsdp"), (4, "hsdp"), (2, "fsdp")])
def test_equal_to_one_process(runs, size, layout, orthogonalize):
    """Uneven and empty shards, QKV across shards, (1, n), kernels, experts, a gradient of inf."""
    model = Model()
    steps(model, optimizer(model, orthogonalize=orthogonalize), 0, 4)
    check_close(load(runs[size])[f"{layout} {orthogonalize}"], whole(model))


@pytest.mark.parametrize("size", [4, 2])
def test_data_parallel_is_equal_to_one_process(runs, size):
    check_close(load(runs[size])["ddp"], data_parallel(0, 1))


@pytest.mark.parametrize("size", [4, 2])
def test_bfloat16_parameters_of_which_ranks_have_nothing(runs, size):
    for name, value in in_bfloat16(None).items():
        torch.testing.assert_close(load(runs[size])["bfloat16"][name], value, rtol=2**-7, atol=1e-3)


def test_accelerate_may_shard_the_model_under_the_optimizer(runs):
    check_close(load(runs[2])["accelerate"], data_parallel(0, 1))


@pytest.mark.parametrize("size", [4, 2])
def test_ranks_may_differ_in_who_has_a_gradient_and_in_how_it_is_laid_out(runs, size):
    check_close(load(runs[size])["odd gradients"], odd_gradients(None, 0, size))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
@pytest.mark.parametrize(
    ("size", "variant"),
    [(4, "celo2"), (4, "base"), (4, "state"), *((2, name) for name in VARIANTS)],
)
def test_any_axis_may_be_sharded_whatever_is_split(runs, size, variant):
    check_close(load(runs[size])[f"layouts {variant}"], layouts(None, **VARIANTS[variant]))


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(runs):
    results = load(runs[4])
    for name, value in results["uninterrupted"].items():
        assert torch.equal(results["resumed"][name], value)


def test_four_ranks_checkpoint_and_two_go_on(runs):
    results = load(runs[2])
    check_close(results["resumed"], results["uninterrupted"])
    model = Model()
    steps(model, optimizer(model), 0, 5)
    check_close(results["resumed"], whole(model))


def test_what_is_sent(runs):
    """Each element goes to the owner of its matrix and back, in four bytes; the rest are sums."""
    model = Model()
    ruled = []
    for name, p in model.named_parameters():
        if p.ndim > 1 and "embedding" not in name and "head" not in name:
            ruled.append(p)
    kinds = Counter(["33x12", "33x12", "3x33", "1x9", "6x6", "6x6", "5x10", "12x12", "experts"])
    entries = sum(p.numel() for p in ruled if p is not model.experts)
    traffic = [json.loads((runs[4] / f"traffic-{rank}.json").read_text()) for rank in range(4)]
    exchanges = [rank["alltoall_base_"] for rank in traffic]
    assert {len(each) for each in exchanges} == {2 * (len(kinds) - 1)}
    assert sum(sum(each[0::2]) for each in exchanges) == 4 * entries
    assert sum(sum(each[1::2]) for each in exchanges) == 4 * entries
    # QKV has three times the columns.
    sides = sum(sum(p.shape[:2]) * p[0, 0].numel() for p in ruled) + 2 * 12
    assert {len(rank["allreduce_"]) for rank in traffic} == {1 + 2 * len(kinds)}
    # Flags take a byte each: two per parameter, and one per matrix (9 taps, 5 experts).
    flags = 2 * 11 + 2 + 1 + 1 + 4 + 9 + 1 + 5
    assert sum(traffic[0]["allreduce_"]) <= 4 * (sides + 19 * 40) + flags


def test_what_is_refused(runs):
    twice, in_backward = load(runs[4])["refusals"]
    assert twice.startswith(
        "weight is laid out as (Shard(dim=0), Shard(dim=1)); "
        "Celo2 takes parameters that are sharded along one"
    )
    assert in_backward == (
        "in_backward is for one process, and this is one of several; leave in_backward out"
    )
