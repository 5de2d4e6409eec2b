"""Protects the contract of a PyTorch optimizer: what works with AdamW must work with Celo2."""

import copy
import inspect
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from celo2 import InputError
from celo2.torch import Celo2
from tests.cases import THETA
from tests.torch.models import backward, same, small_model, train


def test_a_model_learns():
    model = small_model()
    losses = train(model, Celo2(model, lr=3e-3), 150)
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    "method", ["step", "load_state_dict", "add_param_group", "zero_grad", "state_dict"]
)
def test_methods_have_the_parameters_of_the_base_class(method):
    ours, base = (
        inspect.signature(getattr(cls, method)).parameters.values() for cls in (Celo2, Optimizer)
    )
    assert [(p.name, p.kind) for p in ours] == [(p.name, p.kind) for p in base]


@pytest.mark.parametrize("call", [lambda o, c: o.step(c), lambda o, c: o.step(closure=c)])
def test_a_closure_is_called_once_with_gradients_on_and_its_loss_returned(call):
    model = small_model()
    optimizer = Celo2(model, lr=1e-3, theta=THETA)
    calls = []

    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        calls.append(backward(model, 0))
        return calls[-1]

    before = copy.deepcopy(model)
    assert call(optimizer, closure) is calls[0]
    assert len(calls) == 1
    assert not same(model, before)


@pytest.mark.parametrize(
    ("params", "unnamed"),
    [
        (lambda m: m, False),
        (lambda m: m.named_parameters(), False),
        (lambda m: m.parameters(), True),
        (lambda m: [{"params": m[:4]}, {"params": m[4:], "lr": 1e-4}], False),
        (
            lambda m: [
                {"params": m[:4].named_parameters()},
                {"params": m[4:].named_parameters(), "lr": 1e-4},
            ],
            False,
        ),
        (lambda m: [{"params": list(m.parameters()), "fused": True, "foreach": False}], True),
    ],
    ids=["module", "named", "plain", "module groups", "named groups", "unknown keys"],
)
def test_everything_that_holds_parameters_is_taken(params, unnamed):
    model = small_model()
    before = copy.deepcopy(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = Celo2(params(model), lr=1e-3, theta=THETA)
    assert len(caught) == unnamed
    assert all("4 matrices came without names" in str(each.message) for each in caught)
    assert all(each.filename == __file__ for each in caught)
    train(model, optimizer, 1)
    assert all(
        not torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True)
    )
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(
        list(model.parameters())
    )


@pytest.mark.parametrize(
    ("layout", "gradient"),
    [
        (lambda x: x.t().contiguous().t(), lambda x: x),
        (lambda x: x, lambda x: x.t().contiguous().t()),
        (lambda x: torch.empty(6, 10)[:, ::2].copy_(x), lambda x: x),
    ],
    ids=["transposed", "transposed gradient", "every second"],
)
def test_the_adamw_part_in_any_memory_layout(layout, gradient):
    torch.manual_seed(0)
    x = torch.randn(6, 5)
    p, q = nn.Parameter(layout(x)), nn.Parameter(x.clone())
    optimizer = Celo2([{"params": [p], "rule": "adamw", "lr": 0.1}], lr=1e-3, theta=THETA)
    reference = torch.optim.AdamW([q], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(3):
        q.grad = torch.randn(6, 5)
        p.grad = gradient(q.grad)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


def test_autocast_around_the_optimizer_changes_nothing():
    model, twin = small_model(), small_model()
    optimizer, other = Celo2(model, lr=1e-2, theta=THETA), Celo2(twin, lr=1e-2, theta=THETA)
    for step in range(2):
        backward(model, step)
        backward(twin, step)
        optimizer.step()
        with torch.autocast("cpu", torch.bfloat16):
            other.step()
    assert same(model, twin)


def test_parameters_may_be_swapped_before_the_first_step():
    """accelerate replaces the tensors in the groups after construction."""
    model, twin = small_model(), small_model()
    optimizer = Celo2(model, lr=1e-3, theta=THETA)
    mapping = dict(zip(model.parameters(), twin.parameters(), strict=True))
    for group in optimizer.param_groups:
        group["params"] = [mapping[p] for p in group["params"]]
    losses = train(twin, optimizer, 3)
    train(model, Celo2(model, lr=1e-3, theta=THETA), 3)
    assert same(model, twin)
    assert np.isfinite(losses).all()


def test_a_step_runs_without_any_values():
    """Meta tensors have no values: whatever would wait for one, or branch on one, raises."""
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Embedding(11, 8),
            nn.Linear(8, 300),
            nn.Linear(300, 300),
            nn.LayerNorm(300),
            nn.Linear(300, 4),
        )
    optimizer = Celo2(model, lr=1e-3, weight_decay=0.1, theta=THETA)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    optimizer.step()
    assert all(len(optimizer.state[p]) > 3 for p in model.parameters())


def test_a_step_never_waits_for_the_device():
    """None of the operators that copy a scalar to the host runs."""
    from torch.utils._python_dispatch import TorchDispatchMode

    names = set()

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.add(str(func))
            return func(*args, **(kwargs or {}))

    model = small_model()
    optimizer = Celo2(model, lr=torch.tensor(1e-3), theta=THETA)
    backward(model, 0)
    with Names():
        optimizer.step()
        optimizer.step()
    assert names
    assert not {
        name
        for name in names
        if "_local_scalar_dense" in name or "nonzero" in name or "is_nonzero" in name
    }


def test_plain_tensors_and_parameters_frozen_after_backward_are_updated():
    w = torch.zeros(3, 3)
    w.grad = torch.eye(3)
    Celo2([w], lr=1e-3, theta=THETA).step()
    assert w.any()
    model = nn.Linear(3, 3)
    model(torch.ones(1, 3)).sum().backward()
    model.weight.requires_grad_(False)
    before = model.weight.clone()
    Celo2(model, lr=1e-3, theta=THETA).step()
    assert not torch.equal(model.weight, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Celo2([], lr=1e-3, theta=THETA), "no parameters to optimize"),
        (
            lambda: Celo2(nn.Linear(2, 2), lr=-1e-3, theta=THETA),
            "lr is -0.001; it must be a number that is not negative",
        ),
        (
            lambda: Celo2(nn.Linear(2, 2), lr=float("nan"), theta=THETA),
            "lr is nan; it must be a number that is not negative",
        ),
        (lambda: Celo2(nn.Linear(2, 2), lr=torch.ones(2), theta=THETA), "lr is a tensor of shape"),
        (
            lambda: Celo2(nn.Linear(2, 2), weight_decay=-1, lr=1e-3, theta=THETA),
            "weight_decay is -1; it must be a number that is not negative",
        ),
        (
            lambda: Celo2(nn.Linear(2, 2), betas=(0.9, 1.0), lr=1e-3, theta=THETA),
            "give two, each at least 0 and below 1",
        ),
        (
            lambda: Celo2(nn.Linear(2, 2), state_dtype=torch.float16, lr=1e-3, theta=THETA),
            "state_dtype is torch.float16; use one of",
        ),
        (
            lambda: Celo2(nn.Linear(2, 2), newton_schulz_dtype=torch.float16, lr=1e-3, theta=THETA),
            "newton_schulz_dtype is torch.float16",
        ),
        (
            lambda: Celo2(nn.Linear(2, 2), lr="1e-3", theta=THETA),
            "lr is '1e-3'; it must be a number",
        ),
        (lambda: Celo2(nn.ReLU(), lr=1e-3, theta=THETA), "no parameters to optimize"),
        (lambda: Celo2([{"lr": 1.0}], lr=1e-3, theta=THETA), "a group has no 'params'"),
        (
            lambda: Celo2([{"params": [torch.ones(4, 2)], "axes": (1,)}], lr=1e-3, theta=THETA),
            "give two, (fan_in, fan_out)",
        ),
        (
            lambda: Celo2(nn.Linear(2, 2), betas=0.9, lr=1e-3, theta=THETA),
            "betas are 0.9; give two",
        ),
        (lambda: Celo2([{"params": []}], lr=1e-3, theta=THETA), "no parameters to optimize"),
        (lambda: Celo2(torch.ones(2, 2), lr=1e-3, theta=THETA), "params is one tensor"),
        (
            lambda: Celo2([{"params": [torch.ones(2, 2)], "maximize": True}], lr=1e-3, theta=THETA),
            "maximize=True is not supported",
        ),
        (lambda: Celo2(nn.Linear(2, 2), lr=1e-3, theta="celo3"), "unknown theta 'celo3'"),
        (
            lambda: Celo2([torch.ones(2, 2, dtype=torch.complex64)], lr=1e-3, theta=THETA),
            "is complex; optimize torch.view_as_real",
        ),
        (
            lambda: Celo2([torch.ones(2, 2, dtype=torch.int32)], lr=1e-3, theta=THETA),
            "is of torch.int32; only torch.float16",
        ),
        (
            lambda: Celo2([torch.ones(2, 2).to(torch.float8_e4m3fn)], lr=1e-3, theta=THETA),
            "is of torch.float8_e4m3fn; only",
        ),
        (
            lambda: Celo2(nn.LazyLinear(2), lr=1e-3, theta=THETA),
            "weight has no shape yet (a lazy module); run the model once",
        ),
        (
            lambda: Celo2(nn.LazyLinear(2).parameters(), lr=1e-3, theta=THETA),
            "tensor 0 of group 0 has no shape yet",
        ),
        (
            lambda: Celo2(nn.LazyLinear(2).named_parameters(), lr=1e-3, theta=THETA),
            "weight has no shape yet",
        ),
        (lambda: Celo2(["weight"], lr=1e-3, theta=THETA), "cannot optimize a str"),
        (
            lambda: Celo2([{"params": [torch.ones(2, 2)], "rule": "sgd"}], lr=1e-3, theta=THETA),
            "unknown rule 'sgd'",
        ),
        (
            lambda: Celo2(
                [{"params": [torch.ones(4, 2)], "split_sizes": (3, 3)}], lr=1e-3, theta=THETA
            ),
            "do not add up to 4",
        ),
        (
            lambda: Celo2([{"params": [torch.ones(4, 2)], "axes": (0, 0)}], lr=1e-3, theta=THETA),
            "state each axis once",
        ),
        (
            lambda: Celo2([{"params": [torch.ones(4, 2)], "axes": (0, 5)}], lr=1e-3, theta=THETA),
            "axis 5 does not exist",
        ),
    ],
)
def test_bad_input_gets_one_sentence(make, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_newton_schulz_in_bfloat16_is_near_float32():
    """Its products have three digits: steps agree to a few hundredths of their size."""
    torch.manual_seed(0)
    updates = []
    for dtype in (torch.float32, torch.bfloat16):
        p = nn.Parameter(torch.zeros(64, 128))
        p.grad = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
        Celo2(
            [{"params": [p], "rule": "celo2"}], lr=1.0, theta=THETA, newton_schulz_dtype=dtype
        ).step()
        updates.append(p.detach())
    assert (updates[0] - updates[1]).norm() / updates[0].norm() < 0.05
    assert not torch.equal(*updates)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch.*"
)  # its package still uses TorchScript
def test_zero_redundancy_optimizer_is_refused(tmp_path):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        with pytest.raises(
            InputError,
            match=r"ZeroRedundancyOptimizer cannot hold Celo2.*use torch.distributed.fsdp",
        ):
            ZeroRedundancyOptimizer(small_model().parameters(), Celo2, lr=1e-3)
    finally:
        torch.distributed.destroy_process_group()


def test_a_parameter_that_was_reshaped_after_the_optimizer_was_made_is_refused():
    model = nn.Linear(4, 3)
    optimizer = Celo2(model, lr=1e-3, theta=THETA)
    model.weight.data = torch.zeros(12)
    model.weight.grad = torch.zeros(12)
    with pytest.raises(
        InputError,
        match=r"weight had shape \(3, 4\) when the optimizer was made and has \(12,\) now",
    ):
        optimizer.step()
