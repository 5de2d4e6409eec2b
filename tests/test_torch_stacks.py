"""Protects steps of small matrices in stacks: the numbers of one by one, whoever is in the stack with them."""

import pytest
import torch

from celo2.torch import Celo2, stacks
from celo2.torch import passes as passes_module
from tests.cases import THETA

MATRIX, KERNEL, VECTOR = (12, 20), (6, 4, 3, 3), (9,)


def train(shapes, orthogonalize=True, broken=(), late=(), **options):
    """Parameters and optimizer after six steps; `broken` had one infinite gradient, `late` none in the first step."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = Celo2([{"params": params, "rule": "celo2"}], lr=0.01, theta=THETA, orthogonalize=orthogonalize, **options)
    for step in range(6):
        for i, p in enumerate(params):
            p.grad = torch.randn(p.shape)
            if i in late and step == 0:
                p.grad = None
            elif i in broken and step == 2:
                p.grad.view(-1)[3] = torch.inf
        optimizer.step()
    return params, optimizer


@pytest.fixture
def sizes(monkeypatch):
    """How many matrices each step took."""
    taken = []
    monkeypatch.setattr(stacks, "step_", lambda job, step_=stacks.step_: (taken.append(len(job.p)), step_(job)))
    return taken


def one_by_one(monkeypatch):
    monkeypatch.setattr("celo2.torch.optimizer.step_all", lambda jobs: [stacks.step_(job) for job in jobs])


@pytest.mark.filterwarnings("ignore:gradients that are not finite:RuntimeWarning")
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("orthogonalize", [True, False])
@pytest.mark.parametrize("shape", [MATRIX, MATRIX[::-1], KERNEL, VECTOR])
def test_a_stack_moves_as_each_by_itself(shape, orthogonalize, state_dtype, sizes, monkeypatch):
    """With one that skips a step and one that begins later, so that their counts of steps differ."""
    case = {"orthogonalize": orthogonalize, "broken": {1}, "late": {2}, "state_dtype": state_dtype}
    together, optimizer = train([shape] * 4, **case)
    assert max(sizes) > 1
    one_by_one(monkeypatch)
    expected, other = train([shape] * 4, **case)
    for p, q in zip(together, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)
        for mine, its in zip(optimizer.state[p].values(), other.state[q].values(), strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-5 if mine.dtype == torch.float32 else 1e-2, atol=1e-6)
    assert list(optimizer.skipped().values()) == [1]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_a_compiled_stack_moves_as_an_eager_one(sizes):
    compiled, _ = train([MATRIX] * 3, compile=True)
    assert max(sizes) == 3
    eager, _ = train([MATRIX] * 3, compile=False)
    torch.testing.assert_close(compiled, eager, rtol=0, atol=1e-5)


def test_a_stack_is_of_one_shape_and_layout_and_no_larger_than_a_tile(sizes, monkeypatch):
    monkeypatch.setattr(passes_module, "TILE", 2 * 12 * 20)
    train([MATRIX, MATRIX, (20, 20), MATRIX, (12, 21)])
    assert sorted(sizes[:4]) == [2, 12, 12, 20]  # a pair, and single matrices with their rows
