"""Protects the fused step: the oracle's numbers from few graphs, which no rate, shape or layout compiles anew."""

import numpy as np
import pytest
import torch

from celo2.errors import InputError
from celo2.torch import Celo2, compiler
from celo2.torch import kernels as passes_module
from celo2.torch.stochastic_rounding import keep, noise
from tests.cases import REFERENCE, SHAPES, THETA, draw
from tests.oracle import oracle_steps
from tests.torch.test_step import times_faster, torch_layout, train

pytestmark = [
    pytest.mark.usefixtures("one_thread"),  # kernels are compiled for a number of threads
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]


@pytest.mark.parametrize("name", ["tall", "wide", "square", "row"])
def test_parameters_after_twenty_steps_with_weight_decay(name, monkeypatch):
    monkeypatch.setitem(passes_module.FUSED_TILE, "cpu", 64)  # several tiles a matrix
    check_against_oracle(name)


@pytest.mark.parametrize("name", ["conv", "batched"])
def test_batches_of_matrices_after_twenty_steps(name):
    check_against_oracle(name)


def check_against_oracle(name):
    w, grads = draw(SHAPES[name])
    p, _ = train(w, grads, weight_decay=0.1, compile=True)
    _, expected = oracle_steps(REFERENCE, grads, w, True, weight_decay=0.1)
    np.testing.assert_allclose(p.detach().numpy(), torch_layout(expected[-1]), rtol=0, atol=1e-5)


def test_nothing_compiles_anew_for_other_matrices_layouts_and_rates():
    """A rate on a schedule, as a tensor, weight decay, a GPT's shapes after a square one; what compiled anew would raise."""
    torch._dynamo.reset()
    shapes = [(16, 16), (9, 6), (9, 6), (24, 24), (64, 16), (16, 64), (130, 16), (30, 30), (30, 30), (30, 30), (6, 5, 3, 3)]
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = Celo2([{"params": params[:3], "rule": "celo2"}], lr=0.1, theta=THETA, compile=True)
    for p, shape in zip(params[:3], shapes, strict=False):
        p.grad = torch.randn(shape)
    optimizer.step()  # one matrix, and a stack
    with torch._dynamo.config.patch(error_on_recompile=True):
        optimizer.add_param_group({"params": params[3:], "rule": "celo2"})
        for lr, weight_decay in [(0.1, 0.0), (0.05, 0.1), (torch.tensor(0.01), 0.2), (0, 0)]:
            for group in optimizer.param_groups:
                group["lr"], group["weight_decay"] = lr, weight_decay
            for p in params:
                p.grad = torch.randn(p.shape[::-1]).permute(*reversed(range(p.ndim)))
            optimizer.step()
    assert all(torch.isfinite(p).all() for p in params)


def test_batches_in_bfloat16_are_one_kind_whichever_way_they_lie():
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in [(6, 5, 3, 3), (7, 20, 3, 3)]]
    optimizer = Celo2(
        [{"params": params, "rule": "celo2"}], theta=THETA, compile=True, state_dtype=torch.bfloat16, orthogonalize=False
    )
    params[0].grad = torch.randn_like(params[0])
    optimizer.step()
    params[1].grad = torch.randn_like(params[1])
    with torch._dynamo.config.patch(error_on_recompile=True):
        optimizer.step()


def test_the_compiled_rounding_draws_the_bits_of_the_eager_one():
    torch.manual_seed(0)
    new = [torch.randn(33, 70) for _ in range(4)]
    random = noise(torch.tensor(7.0), torch.Size((33, 70)))
    eager, fused = ([torch.zeros(33, 70, dtype=torch.bfloat16) for _ in range(4)] for _ in range(2))
    keep(eager, new, torch.tensor(True), random)
    torch.compile(keep, fullgraph=True, dynamic=True)(fused, new, torch.tensor(True), random)
    assert all(torch.equal(x, y) for x, y in zip(eager, fused, strict=True))
    assert not torch.equal(eager[0], new[0].bfloat16())


def test_ten_times_faster_than_the_naive_form():
    assert times_faster(5, compile=True) > 10


def test_compiling_is_the_default_where_it_pays(monkeypatch):
    monkeypatch.setattr("celo2.torch.optimizer.COMPILE_FROM", 100)
    used = []
    monkeypatch.setattr(
        "celo2.torch.optimizer.passes", lambda fused, device: used.append(fused) or passes_module.passes(False, device)
    )
    cases = [((9, 9), None, False), ((10, 10), None, True), ((10, 10), False, False), ((9, 9), True, True)]
    for shape, wanted, expected in cases:
        step_once(torch.ones(shape), compile=wanted)
        assert used.pop() == expected
    monkeypatch.setattr(compiler, "_cpp_compiler", lambda: None)
    step_once(torch.ones(10, 10), compile=None)
    assert used.pop() is False
    with pytest.raises(InputError, match=r"compile=True needs a C\+\+ compiler, and none was found; install g\+\+"):
        step_once(torch.ones(2, 2), compile=True)


def step_once(w, **options):
    w.grad = torch.ones_like(w)
    Celo2([{"params": [w], "rule": "celo2"}], theta=THETA, **options).step()
