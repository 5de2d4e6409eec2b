"""Protects the plan of a step: which matrices are stacked, with the numbers of one by one."""

import pytest
import torch

from celo2.torch import Celo2
from celo2.torch.gradients import check
from celo2.torch.kernels import Limits
from celo2.torch.plan import GroupNumbers, Planner, buckets, read
from tests.cases import THETA

MATRIX, KERNEL, VECTOR = (12, 20), (6, 4, 3, 3), (9,)
ONE_BY_ONE = Limits(stack=0)


def train(shapes, orthogonalize=True, broken=(), late=(), limits=Limits(), **options):
    """After six steps; `broken` had one gradient of inf, `late` none in the first step."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = Celo2(
        [{"params": params, "rule": "celo2"}],
        lr=0.01,
        theta=THETA,
        orthogonalize=orthogonalize,
        **options,
    )
    optimizer.limits = limits
    for step in range(6):
        for i, p in enumerate(params):
            p.grad = torch.randn(p.shape)
            if i in late and step == 0:
                p.grad = None
            elif i in broken and step == 2:
                p.grad.view(-1)[3] = torch.inf
        optimizer.step()
    return params, optimizer


def stack_sizes(optimizer, limits=Limits()):
    """How many parameters each stack of the next step takes."""
    parameters = [
        read(p, optimizer.state[p], group, None)
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    planner, numbers = Planner(THETA, False, limits), GroupNumbers()
    batches = []
    for parameter, flags in zip(parameters, check(parameters), strict=True):
        batches += planner.batches(parameter, flags, numbers)
    return [len(stack) for bucket in buckets(batches, limits) for stack in bucket.stacks]


@pytest.mark.filterwarnings("ignore:gradients that are not finite:RuntimeWarning")
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("orthogonalize", [True, False])
@pytest.mark.parametrize("shape", [MATRIX, MATRIX[::-1], KERNEL, VECTOR])
def test_a_stack_moves_as_each_by_itself(shape, orthogonalize, state_dtype):
    """With one that skips a step and one that begins later: their counts of steps differ."""
    case = {"orthogonalize": orthogonalize, "broken": {1}, "late": {2}, "state_dtype": state_dtype}
    together, optimizer = train([shape] * 4, **case)
    assert stack_sizes(optimizer) == [4]
    expected, other = train([shape] * 4, limits=ONE_BY_ONE, **case)
    assert stack_sizes(other, ONE_BY_ONE) == [1] * 4
    for p, q in zip(together, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)
        for mine, its in zip(optimizer.state[p].values(), other.state[q].values(), strict=True):
            torch.testing.assert_close(
                mine, its, rtol=1e-5 if mine.dtype == torch.float32 else 1e-2, atol=1e-6
            )
    assert list(optimizer.skipped().values()) == [1]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:gradients that are not finite:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_a_compiled_stack_moves_as_an_eager_one():
    """And, in the kernel that is compiled by then, a weight of inf does not spread."""
    compiled, optimizer = train([MATRIX] * 3, compile=True)
    assert stack_sizes(optimizer) == [3]
    eager, _ = train([MATRIX] * 3, compile=False)
    torch.testing.assert_close(compiled, eager, rtol=0, atol=1e-5)
    compiled[0].data[1, 2] = torch.inf
    for p in compiled:
        p.grad = torch.randn_like(p)
    optimizer.step()
    assert [int(torch.isfinite(p).sum()) for p in compiled] == [239, 240, 240]
    assert list(optimizer.skipped().values()) == [1]


def test_a_stack_is_no_larger_than_a_tile_and_of_small_matrices_alone():
    limits = Limits(tile=4 * 12 * 20)
    _, optimizer = train([MATRIX] * 11 + [(20, 20)] * 3, limits=limits)
    assert stack_sizes(optimizer, limits) == [1, 1, 1, 4, 4, 3]


def test_a_stack_is_of_one_shape_layout_dtype_and_group():
    def matrices(shape, dtype=torch.float32):
        return [torch.nn.Parameter(torch.randn(shape).to(dtype)) for _ in range(2)]

    turned = [torch.nn.Parameter(torch.randn(MATRIX[::-1]).T) for _ in range(2)]
    kinds = [
        matrices(MATRIX),
        turned,
        matrices((12, 21)),
        matrices(MATRIX, torch.bfloat16),
        matrices(MATRIX),
    ]
    groups = [
        {"params": [p for kind in kinds[:-1] for p in kind], "lr": 0.1},
        {"params": kinds[-1], "lr": 0.3},
    ]
    optimizer = Celo2([{**group, "rule": "celo2"} for group in groups], lr=1e-3, theta=THETA)
    params = [p for kind in kinds for p in kind]
    before = [p.detach().double().clone() for p in params]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    assert stack_sizes(optimizer) == [2] * 5
    moved = [
        (p.double() - old).square().mean().sqrt().item()
        for p, old in zip(params, before, strict=True)
    ]
    assert moved == pytest.approx([0.1] * 8 + [0.3] * 2, rel=0.02)


def test_vectors_and_matrices_of_one_row_are_told_apart():
    """Under celo2-base both take the rule, and both are read as (1, n)."""
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 10), torch.nn.ReLU(), torch.nn.Linear(10, 1), torch.nn.Linear(1, 1)
    )
    optimizer = Celo2(model, lr=1e-3, theta="celo2-base")
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    assert all(
        (p - old).abs().max() > 1e-4 for p, old in zip(model.parameters(), before, strict=True)
    )


def test_adamw_moves_both_parameters_of_one_storage():
    """In bfloat16, where its kernel works on copies."""
    shared = torch.zeros(8, 8, dtype=torch.bfloat16)
    params = [torch.nn.Parameter(shared) for _ in range(2)]
    optimizer = Celo2([{"params": params, "rule": "adamw", "lr": 0.125}], lr=1e-3, theta=THETA)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(shared, torch.full_like(shared, -0.25))


def test_parameters_of_one_storage_are_both_updated():
    shared = torch.randn(MATRIX)
    params = [torch.nn.Parameter(shared) for _ in range(2)]
    optimizer = Celo2([{"params": params, "rule": "celo2"}], lr=0.1, theta=THETA)
    before = shared.clone()
    for p in params:
        p.grad = torch.randn(MATRIX, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert stack_sizes(optimizer) == [1, 1]
    assert (shared - before).square().mean().sqrt().item() == pytest.approx(0.2, rel=0.01)
