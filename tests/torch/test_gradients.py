"""Protects the handling of gradients: absent, zero, sparse or not finite, and never written."""

import copy

import pytest
import torch
from torch import nn

from celo2 import InputError
from celo2.torch import Celo2
from tests.cases import THETA
from tests.torch.models import backward, same, small_model, train


def test_odd_shapes_frozen_and_absent_gradients():
    shapes = [(), (0, 4), (1, 6), (6, 1), (3,), (1,), (2, 3, 0)]
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    frozen = nn.Parameter(torch.randn(4, 4), requires_grad=False)
    waiting = nn.Parameter(torch.randn(4, 4))
    optimizer = Celo2(
        [{"params": [*params, frozen, waiting], "rule": "celo2"}], lr=1e-3, theta=THETA
    )
    before = [p.detach().clone() for p in (frozen, waiting)]
    for p in params:
        p.grad = torch.ones_like(p)
    for _ in range(2):
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in params)
    assert torch.equal(frozen, before[0])
    assert torch.equal(waiting, before[1])


def test_zero_learning_rate_and_zero_gradient_change_nothing():
    model = small_model()
    optimizer = Celo2(model, lr=0.0, weight_decay=0.1, theta=THETA)
    before = copy.deepcopy(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert same(model, before)
    assert not any(
        optimizer.state[p]["averages"].any() for p in optimizer.param_groups[0]["params"]
    )


def test_the_gradient_is_never_written():
    model = small_model()
    optimizer = Celo2(model, lr=1e-3, theta=THETA, weight_decay=0.1)
    backward(model, 0)
    before = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_is_skipped_counted_and_reported(bad):
    model, twin = small_model(), small_model()
    optimizer, reference = (Celo2(m, lr=1e-3, weight_decay=0.1, theta=THETA) for m in (model, twin))
    train(model, optimizer, 2)
    train(twin, reference, 2)
    backward(model, 2), backward(twin, 2)
    hurt = [model[2].weight, model[0].weight]
    for p in hurt:
        p.grad.view(-1)[3] = bad
    before = [(p.detach().clone(), copy.deepcopy(optimizer.state[p])) for p in hurt]
    with pytest.warns(
        RuntimeWarning, match=r"not finite were skipped, so far: 2\.weight \(1\), 0\.weight \(1\)"
    ):
        optimizer.step()
    reference.step()
    for p, (value, state) in zip(hurt, before, strict=True):
        assert torch.equal(p, value)
        assert all(
            torch.equal(optimizer.state[p][key], old)
            for key, old in state.items()
            if key != "skipped"
        )
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q) == (name not in ("0.weight", "2.weight"))
    assert optimizer.skipped() == {"2.weight": 1, "0.weight": 1}


def test_skipped_gradients_of_groups_with_equal_names_are_counted_apart():
    layers = [nn.Sequential(nn.Linear(3, 3)) for _ in range(2)]
    optimizer = Celo2([{"params": layer} for layer in layers], lr=1e-3, theta=THETA)
    for layer in layers:
        layer[0].weight.grad = torch.ones(3, 3)
    layers[0][0].weight.grad[0, 0] = torch.nan
    with pytest.warns(RuntimeWarning, match=r"so far: 0\.weight \(1\)$"):
        optimizer.step()
    layers[1][0].weight.grad[0, 0] = torch.nan
    with pytest.warns(RuntimeWarning, match=r"so far: 0\.weight \(2\), group 1\.0\.weight \(1\)$"):
        optimizer.step()
    assert optimizer.skipped() == {"0.weight": 2, "group 1.0.weight": 1}


def test_grad_scaler_skips_and_goes_on():
    model = small_model()
    optimizer = Celo2(model, lr=1e-3, theta=THETA)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    before = copy.deepcopy(model)
    for step, spoil in enumerate((True, False)):
        optimizer.zero_grad()
        scaler.scale(
            nn.functional.cross_entropy(model(torch.zeros(4, 3, dtype=torch.long)), torch.arange(4))
        ).backward()
        if spoil:
            model[2].weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        assert same(model, before) == (step == 0)
    assert optimizer.skipped() == {}


def test_a_sparse_gradient_is_refused_by_name_before_anything_is_updated():
    model = nn.ModuleList([nn.Linear(3, 3), nn.Embedding(5, 3, sparse=True)])
    optimizer = Celo2(model, lr=1e-3, theta=THETA)
    before = model[0].weight.detach().clone()
    model[0](model[1](torch.tensor([1]))).sum().backward()
    with pytest.raises(InputError, match=r"the gradient of 1.weight is sparse; use sparse=False"):
        optimizer.step()
    assert torch.equal(model[0].weight, before)
