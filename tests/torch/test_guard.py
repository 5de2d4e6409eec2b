"""Protects the guard in PyTorch: the rule's numbers in float64, for any layout, state and tile."""

import numpy as np
import pytest
import torch

from celo2 import InputError, Theta
from celo2.torch import Celo2
from celo2.torch.kernels import Limits
from celo2.torch.reference import Celo2Reference
from tests.cases import draw

THETA = Theta.random(1)
KAPPA = 0.3


def train(optimizer, params, gradients):
    for step in range(len(gradients[0])):
        for p, grads in zip(params, gradients, strict=True):
            p.grad = torch.from_numpy(grads[step]).to(p.dtype)
        optimizer.step()
    return [p.detach().float() for p in params]


def drawn(shapes, steps=5):
    values, gradients = [], []
    for seed, shape in enumerate(shapes):
        w, grads = draw(shape, steps, seed)
        values.append(w)
        gradients.append(grads)
    return values, gradients


def parameters(values, dtype=torch.float32):
    return [torch.nn.Parameter(torch.from_numpy(w.copy()).to(dtype)) for w in values]


SHAPES = [(7, 5), (5, 7), (16, 16), (16, 16), (1, 9), (40, 24)]


@pytest.mark.parametrize("tile", [64, 65536])
@pytest.mark.parametrize("orthogonalize", [True, False])
def test_the_numbers_are_those_of_the_rule_in_float64(orthogonalize, tile):
    """Stacked, alone and in tiles; a theta drawn at random, which the guard has to push."""
    values, gradients = drawn(SHAPES)
    params = parameters(values)
    group = {"params": params, "rule": "celo2"}
    optimizer = Celo2([group], lr=0.01, theta=THETA, orthogonalize=orthogonalize, guard=KAPPA)
    optimizer.limits = Limits(tile=tile)
    actual = train(optimizer, params, gradients)
    options = {"theta": THETA, "orthogonalize": orthogonalize, "lr": 0.01}
    expected, unguarded = [], []
    for guard, found in ((KAPPA, expected), (None, unguarded)):
        wide = parameters(values, torch.float64)
        found += train(Celo2Reference(wide, guard=guard, **options), wide, gradients)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(expected, unguarded, strict=True))
    assert 0 < optimizer.guard_rate() <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_compiled_is_equal_to_eager():
    values, gradients = drawn([(24, 40), (40, 24), (32, 32)], steps=3)
    found = []
    for compiled in (True, False):
        params = parameters(values)
        group = {"params": params, "rule": "celo2", "weight_decay": 0.3, "cautious": 0.5}
        optimizer = Celo2([group], lr=0.01, theta=THETA, guard=KAPPA, compile=compiled)
        found.append((train(optimizer, params, gradients), optimizer.guard_rate()))
    (first, rate), (second, other) = found
    assert rate == other > 0
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


def test_state_in_bfloat16():
    """The momentum is the one that is stored: updates have the cosine to it."""
    values, gradients = drawn([(24, 40)], steps=4)
    (p,) = parameters(values, torch.bfloat16)
    optimizer = Celo2(
        [{"params": [p], "rule": "celo2"}],
        lr=1.0, theta=THETA, guard=KAPPA, state_dtype=torch.bfloat16, orthogonalize=False,
    )  # fmt: skip
    for g in gradients[0]:
        p.data.zero_()
        p.grad = torch.from_numpy(g).bfloat16()
        optimizer.step()
        m = optimizer.state[p]["averages"][0].float()
        cosine = torch.nn.functional.cosine_similarity(-p.float().flatten(), m.flatten(), 0)
        assert cosine > KAPPA - 5e-3
    assert optimizer.guard_rate() > 0


def test_what_it_does_is_not_done_where_it_need_not():
    values, gradients = drawn(SHAPES)
    found = []
    for guard in (1e-6, None):
        params = parameters(values)
        group = {"params": params, "rule": "celo2"}
        optimizer = Celo2([group], lr=0.01, guard=guard)
        found.append(train(optimizer, params, gradients))
        assert optimizer.guard_rate() == 0
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_theta_that_gives_no_numbers_is_no_harm():
    """The momentum takes its place, at RMS lr."""
    weights = THETA.weights._replace(b2=np.full(3, np.float32(np.finfo(np.float32).max)))
    theta = Theta(weights, THETA.spec, "overflows")
    (w,), (grads,) = drawn([(5, 7)], steps=1)
    (p,) = parameters([w])
    group = {"params": [p], "rule": "celo2"}
    optimizer = Celo2([group], lr=0.01, theta=theta, guard=0.1, orthogonalize=False)
    train(optimizer, [p], [grads])
    step = torch.from_numpy(w) - p.detach()
    expected = torch.from_numpy(grads[0])
    expected = 0.01 * expected / expected.square().mean().sqrt()
    torch.testing.assert_close(step, expected, rtol=1e-4, atol=1e-6)
    assert optimizer.guard_rate() == 1


def test_a_group_may_have_its_own_and_it_is_checked():
    values, gradients = drawn([(16, 16), (16, 16)])
    params = parameters(values)
    groups = [
        {"params": [params[0]], "rule": "celo2", "guard": 0.9},
        {"params": [params[1]], "rule": "celo2"},
    ]
    optimizer = Celo2(groups, lr=0.01)
    train(optimizer, params, gradients)
    assert optimizer.guard_rate() == 1  # of the one that is guarded
    with pytest.raises(InputError, match="guard is 2; give a number between 0 and 1, or None"):
        Celo2(params, lr=0.01, guard=2)
