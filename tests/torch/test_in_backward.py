"""Protects updates inside the backward pass: equal to `step`, with one gradient alive at a time."""

import copy
import pickle

import pytest
import torch
from torch import nn

from celo2 import InputError
from celo2.torch import Celo2
from tests.cases import THETA
from tests.torch.models import backward, same, small_model


def test_in_backward_gives_the_same_parameters_and_frees_each_gradient():
    model, twin = small_model(), small_model()
    optimizer = Celo2(model, lr=1e-2, weight_decay=0.1, theta=THETA, in_backward=True)
    reference = Celo2(twin, lr=1e-2, weight_decay=0.1, theta=THETA)
    alive = []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(q.grad is not None for q in model.parameters()))
        )
    for step in range(3):
        backward(model, step)
        before = copy.deepcopy(model)
        optimizer.step()
        assert same(model, before), "the backward pass has updated everything"
        assert all(p.grad is None for p in model.parameters())
        backward(twin, step)
        reference.step()
        reference.zero_grad()
    assert same(model, twin)
    assert max(alive) == 0


def test_in_backward_refuses_sparse_gradients_and_updates_what_is_trained_later():
    model = nn.ModuleList([nn.Embedding(5, 3, sparse=True), nn.Linear(3, 3), nn.Linear(3, 3)])
    model[2].weight.requires_grad_(False)
    optimizer = Celo2(model, lr=1e-2, theta=THETA, in_backward=True)
    with pytest.raises(InputError, match="is sparse; use sparse=False"):
        model[1](model[0](torch.tensor([1]))).sum().backward()
    optimizer = Celo2(model[1:], lr=1e-2, theta=THETA, in_backward=True)
    model[2].weight.requires_grad_(True)
    before = model[2].weight.clone()
    model[2](model[1](torch.ones(1, 3))).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[2].weight, before)
    assert model[2].weight.grad is None


@pytest.mark.parametrize("unscale", [False, True])
def test_in_backward_with_a_grad_scaler_is_refused(unscale):
    model = small_model()
    optimizer = Celo2(model, lr=1e-3, theta=THETA, in_backward=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(
        nn.functional.cross_entropy(model(torch.zeros(4, 3, dtype=torch.long)), torch.arange(4))
    ).backward()
    if unscale:
        scaler.unscale_(optimizer)
    with pytest.raises(
        InputError, match=r"GradScaler has not unscaled yet; leave in_backward out, or use bfloat16"
    ):
        scaler.step(optimizer)


def test_a_copy_of_an_optimizer_that_steps_in_backward_does_so_too():
    model = small_model()
    optimizer = Celo2(model, lr=1e-2, theta=THETA, in_backward=True)
    backward(model, 0)
    other, copied = pickle.loads(pickle.dumps((model, optimizer)))
    optimizer.load_state_dict(optimizer.state_dict())
    backward(model, 1)
    backward(other, 1)
    assert same(model, other)
    assert copied.state[other[2].weight]["step"] == optimizer.state[model[2].weight]["step"] == 2
