"""Protects groups: learning rates, weight decay and axes reach the parameters they are for."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from celo2.torch import Celo2
from tests.cases import REFERENCE, THETA, draw
from tests.oracle import oracle_steps
from tests.torch.models import backward, same, small_model, train


def settings(optimizer, *keys):
    return [tuple(group[key] for key in keys) for group in optimizer.param_groups]


def test_hyperparameters_live_in_groups_and_adamw_has_a_multiplier():
    optimizer = Celo2(small_model(), lr=1e-3, weight_decay=0.1, adamw_lr_multiplier=20, theta=THETA)
    assert settings(optimizer, "rule", "lr", "lr_multiplier", "weight_decay") == [
        ("celo2", 1e-3, 1.0, 0.1), ("adamw", 1e-3, 20, 0.1), ("adamw", 1e-3, 20, 0.0),
    ]  # fmt: skip
    assert all(group["theta"] == THETA.identity for group in optimizer.param_groups)


def test_the_adamw_part_is_the_adamw_of_torch():
    model, twin = small_model(), small_model()
    group = {"params": model.parameters(), "rule": "adamw", "lr": 1e-2, "weight_decay": 0.1}
    optimizer = Celo2([group], lr=1e-3, theta=THETA)
    reference = torch.optim.AdamW(
        twin.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    train(model, optimizer, 10)
    train(twin, reference, 10)
    assert same(model, twin)


def test_weight_decay_goes_by_the_base_learning_rate_and_spares_biases_and_norms():
    """By hand: p <- p - lr weight_decay p, of every matrix, the embedding and the head included."""
    model = small_model()
    optimizer = Celo2(model, lr=0.1, weight_decay=0.5, theta=THETA)
    twin = small_model()
    reference = Celo2(twin, lr=0.1, theta=THETA)
    backward(model, 0), backward(twin, 0)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(), reference.step()
    for p, q, old in zip(model.parameters(), twin.parameters(), before, strict=True):
        decayed = 0.1 * 0.5 * old if p.ndim > 1 else torch.zeros_like(p)
        torch.testing.assert_close(q - p, decayed, rtol=0, atol=1e-5)


def test_a_group_that_states_weight_decay_gets_it_for_all_its_parameters():
    model = small_model()
    group = {"params": model, "weight_decay": 0.1}
    optimizer = Celo2([group], weight_decay=0.3, lr=1e-3, theta=THETA)
    assert settings(optimizer, "rule", "weight_decay") == [("celo2", 0.1), ("adamw", 0.1)]


@pytest.mark.parametrize("loop", ["by hand", "OneCycleLR", "SWALR"])
def test_one_learning_rate_for_all_groups_keeps_the_multiplier_of_adamw(loop):
    """Scripts and schedulers write one learning rate into every group; the factor must survive."""
    model, twin = small_model(), small_model()
    optimizer = Celo2(model, lr=1e-3, theta=THETA)
    if loop == "by hand":
        for group in optimizer.param_groups:
            group["lr"] = 2e-3
    elif loop == "OneCycleLR":
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 2e-3, total_steps=4, div_factor=1, cycle_momentum=False
        )
    else:
        scheduler = torch.optim.swa_utils.SWALR(optimizer, swa_lr=2e-3, anneal_epochs=0)
        optimizer.step()  # without a gradient: PyTorch wants it before the scheduler's
        scheduler.step()
    train(model, optimizer, 1)
    train(twin, Celo2(twin, lr=2e-3, theta=THETA), 1)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_fused_qkv_stated_by_its_group_is_three_matrices():
    w, grads = draw((3, 6, 8))
    p = nn.Parameter(torch.from_numpy(np.concatenate([x.T for x in w])))
    optimizer = Celo2([{"params": [p], "split_sizes": (8, 8, 8)}], lr=0.01, theta=THETA)
    for g in grads:
        p.grad = torch.from_numpy(np.concatenate([x.T for x in g]))
        optimizer.step()
    _, expected = oracle_steps(REFERENCE, grads, w, True)
    np.testing.assert_allclose(
        p.detach().numpy(), np.concatenate([x.T for x in expected[-1]]), rtol=0, atol=1e-5
    )


def test_unequal_splits_are_matrices_of_their_own():
    """Grouped-query attention: 12 rows of queries, 4 of keys, 4 of values."""
    sizes = (12, 4, 4)
    parts = [draw((6, size), seed=i) for i, size in enumerate(sizes)]
    p = nn.Parameter(torch.from_numpy(np.concatenate([w.T for w, _ in parts])))
    optimizer = Celo2([{"params": [p], "split_sizes": sizes}], lr=0.01, theta=THETA)
    for step in range(20):
        p.grad = torch.from_numpy(np.concatenate([g[step].T for _, g in parts]))
        optimizer.step()
    expected = [oracle_steps(REFERENCE, g, w, True)[1][-1].T for w, g in parts]
    np.testing.assert_allclose(p.detach().numpy(), np.concatenate(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("axes", "order"),
    [((0, 1), (0, 1)), ((-1, -2), (1, 0)), ((0, 2), (0, 2, 1))],
    ids=["(in, out)", "(out, in)", "(in, batch, out)"],
)
def test_axes_stated_by_a_group(axes, order):
    shape = (5, 7) if len(order) == 2 else (3, 5, 7)
    w, grads = draw(shape)
    back = {
        (0, 1): lambda x: x,
        (1, 0): lambda x: np.swapaxes(x, -1, -2),
        (0, 2, 1): lambda x: np.moveaxis(x, -3, -2),
    }[order]
    p = nn.Parameter(torch.from_numpy(back(w).copy()))
    optimizer = Celo2([{"params": [p], "axes": axes}], lr=0.01, theta=THETA)
    for g in grads:
        p.grad = torch.from_numpy(back(g).copy())
        optimizer.step()
    _, expected = oracle_steps(REFERENCE, grads, w, True)
    np.testing.assert_allclose(p.detach().numpy(), back(expected[-1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("lr", [lambda: torch.tensor(1e-3), lambda: 1e-3])
def test_schedulers_drive_float_and_tensor_learning_rates(lr):
    model = small_model()
    optimizer = Celo2(model, lr=lr(), theta=THETA)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=8, cycle_momentum=False
    )
    start = float(optimizer.param_groups[0]["lr"])
    for step in range(4):
        train(model, optimizer, 1, step)
        scheduler.step()
    assert float(optimizer.param_groups[0]["lr"]) > start


def test_schedulers_that_write_into_tensor_learning_rates_reach_each_group_once():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Flatten(),
        nn.Linear(4, 4),
        nn.Linear(4, 2),
    )
    lr = torch.tensor(1.0)
    optimizer = Celo2(model, lr=lr, theta=THETA)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    for metric in (1.0, 2.0):
        scheduler.step(metric)
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.5] * len(
        optimizer.param_groups
    )
    assert float(lr) == float(optimizer.defaults["lr"]) == 1.0


def test_a_tensor_learning_rate_gives_what_a_float_gives():
    a, b = small_model(), small_model()
    train(a, Celo2(a, lr=1e-3, theta=THETA), 3)
    train(b, Celo2(b, lr=torch.tensor(1e-3), theta=THETA), 3)
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)


def test_numbers_of_numpy_are_numbers():
    numbers = {
        "lr": np.float32(1e-3),
        "weight_decay": np.float64(0.1),
        "betas": (np.float32(0.5), np.float32(0.9)),
    }
    optimizer = Celo2(small_model(), theta=THETA, **numbers)
    for group in optimizer.param_groups:
        assert type(group["lr"]) is float
        assert group["lr"] == pytest.approx(1e-3)
        assert group["betas"] == pytest.approx((0.5, 0.9))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    torch.load(file, weights_only=True)


def test_module_groups_and_tensor_groups_mix():
    body, head, qkv, experts = (
        nn.Linear(4, 4),
        nn.Linear(4, 2),
        torch.ones(16, 8),
        torch.ones(2, 6, 4),
    )
    groups = [
        {"params": body},
        {"params": head, "rule": "adamw", "lr": 1e-3},
        {"params": [qkv], "split_sizes": (8, 4, 4)},
        {"params": [experts], "axes": (2, 1)},
    ]
    optimizer = Celo2(groups, lr=1e-2, theta=THETA)
    for p in (qkv, experts):
        p.grad = torch.randn_like(p)
    optimizer.step()
    assert optimizer.state[experts]["row_moments"].shape == (3, 2 * 4)
    assert optimizer.state[qkv]["column_moments"].shape == (3, 8 + 8 + 8)
    assert [r.name for r in optimizer.routing()] == [
        "weight", "bias", "group 1.weight", "group 1.bias",
        "tensor 0 of group 2", "tensor 0 of group 3",
    ]  # fmt: skip


def test_groups_added_later_are_routed():
    model = small_model()
    optimizer = Celo2([{"params": model[:4].named_parameters()}], lr=1e-3, theta=THETA)
    optimizer.add_param_group({"params": model[4:], "lr": 5e-4})
    assert settings(optimizer, "rule", "lr", "lr_multiplier") == [
        ("celo2", 1e-3, 1.0), ("adamw", 1e-3, 20), ("celo2", 5e-4, 1.0), ("adamw", 5e-4, 20),
    ]  # fmt: skip


def test_keys_of_other_optimizers_in_a_group_are_tolerated():
    model = small_model()
    optimizer = Celo2(
        [{"params": model, "fused": True, "foreach": None, "lr_scale": 0.5}], lr=1e-3, theta=THETA
    )
    train(model, optimizer, 1)
    assert all(group["fused"] is True for group in optimizer.param_groups)
