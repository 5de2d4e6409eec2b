"""Protects the fused step: the oracle's numbers, and no recompilation for other shapes."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from celo2.errors import InputError
from celo2.torch import Celo2
from celo2.torch.kernels import Limits
from celo2.torch.stochastic_rounding import noise, store
from tests.cases import REFERENCE, SHAPES, THETA, draw
from tests.oracle import oracle_steps
from tests.torch.test_update import torch_layout, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),  # kernels are compiled for a number of threads
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]


@pytest.mark.parametrize("name", ["tall", "wide", "square", "row"])
def test_parameters_after_twenty_steps_with_weight_decay(name):
    check_against_oracle(name, Limits(fused_tile=64))  # several tiles per matrix


@pytest.mark.parametrize("name", ["conv", "batched"])
def test_batches_of_matrices_after_twenty_steps(name):
    check_against_oracle(name)


def test_cautious_weight_decay_after_twenty_steps():
    check_against_oracle("tall", Limits(fused_tile=64), cautious=0.5)


def check_against_oracle(name, limits=Limits(), cautious=0.0):
    w, grads = draw(SHAPES[name])
    decay = {"weight_decay": 0.1, "cautious": cautious}
    p, _ = train(w, grads, compile=True, limits=limits, **decay)
    _, expected = oracle_steps(REFERENCE, grads, w, True, **decay)
    np.testing.assert_allclose(p.detach().numpy(), torch_layout(expected[-1]), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:gradients that are not finite:RuntimeWarning")
def test_nothing_is_recompiled_for_other_matrices_layouts_and_learning_rates():
    """Learning rates on a schedule and as tensors, weight decay, shapes after a square one."""
    torch._dynamo.reset()
    shapes = [
        (16, 16),
        (9, 6),
        (9, 6),
        (24, 24),
        (64, 16),
        (16, 64),
        (130, 16),
        (30, 30),
        (30, 30),
        (30, 30),
        (6, 5, 3, 3),
    ]
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
    # In the kernel of one matrix, a weight of inf does not spread; that of stacks is in test_plan.
    params[0].data[1, 2] = torch.inf
    for p in params:
        p.grad = torch.randn_like(p)
    with torch._dynamo.config.patch(error_on_recompile=True):
        optimizer.step()
    assert int((~torch.isfinite(params[0])).sum()) == 1
    assert all(torch.isfinite(p).all() for p in params[1:])


def test_batches_in_bfloat16_are_one_kind_whichever_way_they_lie():
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in [(6, 5, 3, 3), (7, 20, 3, 3)]]
    optimizer = Celo2(
        [{"params": params, "rule": "celo2"}],
        lr=1e-3,
        theta=THETA,
        compile=True,
        state_dtype=torch.bfloat16,
        orthogonalize=False,
    )
    params[0].grad = torch.randn_like(params[0])
    optimizer.step()
    params[1].grad = torch.randn_like(params[1])
    with torch._dynamo.config.patch(error_on_recompile=True):
        optimizer.step()


def test_the_compiled_rounding_draws_the_bits_of_the_eager_one():
    torch.manual_seed(0)
    new = [torch.randn(33, 70) for _ in range(4)]
    random = noise(
        torch.tensor(7.0),
        torch.arange(33, dtype=torch.int32)[:, None],
        torch.arange(70, dtype=torch.int32)[None],
    )
    eager, fused = ([torch.zeros(33, 70, dtype=torch.bfloat16) for _ in range(4)] for _ in range(2))
    store(eager, new, torch.tensor(True), random)
    torch.compile(store, fullgraph=True, dynamic=True)(fused, new, torch.tensor(True), random)
    assert all(torch.equal(x, y) for x, y in zip(eager, fused, strict=True))
    assert not torch.equal(eager[0], new[0].bfloat16())


@pytest.mark.parametrize(
    ("shape", "asked", "compiled"),
    [((9, 9), None, False), ((10, 10), None, True), ((10, 10), False, False), ((9, 9), True, True)],
)
def test_compiling_is_the_default_where_it_pays(shape, asked, compiled):
    assert compiles_a_step(torch.ones(shape), compile=asked) == compiled


def test_without_a_compiler_the_default_is_eager_and_compiling_is_refused():
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert not compiles_a_step(torch.ones(10, 10), compile=None)
        with pytest.raises(
            InputError,
            match=r"compile=True needs a C\+\+ compiler, and none was found; install g\+\+",
        ):
            compiles_a_step(torch.ones(2, 2), compile=True)


def compiles_a_step(w, **options):
    """Whether a step compiles the kernels, or would if they were not compiled before."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    w.grad = torch.ones_like(w)
    optimizer = Celo2([{"params": [w], "rule": "celo2"}], lr=1e-3, theta=THETA, **options)
    optimizer.limits = Limits(compile_from=100)
    optimizer.step()
    return torch._dynamo.utils.counters["stats"]["calls_captured"] > 0


def test_an_eager_step_leaves_the_settings_of_the_process_alone():
    """A user's own compilations may run beside it."""
    from torch.fx.experimental import _config

    seen = []

    class Settings(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(_config.use_duck_shape)
            return func(*args, **(kwargs or {}))

    w = torch.ones(4, 4)
    w.grad = torch.ones_like(w)
    optimizer = Celo2([{"params": [w], "rule": "celo2"}], lr=1e-3, theta=THETA, compile=False)
    with Settings():
        optimizer.step()
    assert seen
    assert all(seen)
