"""Protects the contract of a PyTorch optimizer: what works with AdamW must work with Celo2."""

import copy
import inspect
import io
import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from celo2 import InputError, Theta
from celo2.torch import Celo2
from tests.cases import REFERENCE, THETA, draw
from tests.oracle import oracle_steps


def small_model(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Embedding(11, 8),
        nn.Flatten(),
        nn.Linear(24, 16),
        nn.LayerNorm(16),
        nn.ReLU(),
        nn.Linear(16, 12),
        nn.ReLU(),
        nn.Linear(12, 4),
    ).to(dtype)


def backward(model, step):
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(11, (32, 3), generator=generator)
    loss = nn.functional.cross_entropy(model(tokens).float(), tokens[:, 0] % 4)
    loss.backward()
    return loss


def train(model, optimizer, steps, first=0):
    losses = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        losses.append(float(backward(model, step).detach()))
        optimizer.step()
    return losses


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(dtype):
    model = small_model(dtype=dtype)
    optimizer = Celo2(model, lr=1e-3, weight_decay=0.01, theta=THETA)
    train(model, optimizer, 4)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = small_model(seed=9, dtype=dtype)
    resumed.load_state_dict(saved["model"])
    other = Celo2(resumed, lr=5.0, theta=THETA)
    other.load_state_dict(saved["optimizer"])
    train(model, optimizer, 4, first=4)
    train(resumed, other, 4, first=4)
    assert same(model, resumed)


def test_loaded_state_is_not_shared_with_the_checkpoint():
    model = small_model()
    optimizer = Celo2(model, lr=1e-3, theta=THETA)
    train(model, optimizer, 1)
    checkpoint = optimizer.state_dict()
    twin = Celo2(copy.deepcopy(model), lr=1e-3, theta=THETA)
    twin.load_state_dict(checkpoint)
    kept = checkpoint["state"][0]["momentum"].clone()
    for p in twin.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    twin.step()
    assert torch.equal(checkpoint["state"][0]["momentum"], kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_state_dtype(dtype):
    model = small_model()
    optimizer = Celo2(model, lr=1e-3, theta=THETA, state_dtype=dtype)
    train(model, optimizer, 2)
    state = optimizer.state[model[2].weight]
    assert state["momentum"].dtype == state["second_moment"].dtype == dtype
    assert state["momentum"].shape == (3, 16, 24)
    assert state["row_moments"].dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float64),
    ],
)
def test_state_is_kept_with_parameters_of_another_dtype(dtypes):
    model, other = (small_model(dtype=dtype) for dtype in dtypes)
    optimizer, twin = Celo2(model, lr=1e-3, theta=THETA), Celo2(other, lr=1e-3, theta=THETA)
    train(model, optimizer, 2)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(other, twin, 2)
    assert all(torch.isfinite(p).all() for p in other.parameters())


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


def test_state_is_made_for_all_trained_parameters_at_the_first_step():
    model = small_model()
    optimizer = Celo2(model, lr=1e-3, theta=THETA)
    model[2].weight.grad = torch.ones_like(model[2].weight)
    optimizer.step()
    assert all(optimizer.state[p] for p in model.parameters())
    assert optimizer.state[model[0].weight]["step"].dtype == torch.float32


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
        optimizer.state[p]["momentum"].any() for p in optimizer.param_groups[0]["params"]
    )


def test_the_gradient_is_never_written():
    model = small_model()
    optimizer = Celo2(model, lr=1e-3, theta=THETA, weight_decay=0.1)
    backward(model, 0)
    before = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


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


def test_deepcopy_and_pickle_continue_alike():
    model = small_model()
    optimizer = Celo2(model, lr=1e-3, theta=THETA)
    train(model, optimizer, 2)
    copies = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    train(model, optimizer, 2, first=2)
    for other_model, other in copies:
        train(other_model, other, 2, first=2)
        assert same(model, other_model)
        assert str(other.routing()) == str(optimizer.routing())


@pytest.mark.parametrize(
    "options",
    [
        StateDictOptions(),
        StateDictOptions(full_state_dict=True),
        StateDictOptions(cpu_offload=True),
        StateDictOptions(full_state_dict=True, cpu_offload=True),
        StateDictOptions(flatten_optimizer_state_dict=True),
    ],
    ids=["plain", "full", "offload", "full, offload", "flat"],
)
@pytest.mark.parametrize("steps", [0, 2])
def test_distributed_checkpoint_state_dict_round_trip(steps, options):
    model = small_model()
    optimizer = Celo2(model, lr=1e-3, theta=THETA, state_dtype=torch.bfloat16)
    train(model, optimizer, steps)
    before = copy.deepcopy(model)
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    assert same(model, before)
    twin = copy.deepcopy(model)
    other = Celo2(twin, lr=7.0, theta=THETA)
    set_optimizer_state_dict(twin, other, state, options=options)
    assert all(group["state_dtype"] == torch.bfloat16 for group in other.param_groups)
    train(model, optimizer, 2, first=steps)
    train(twin, other, 2, first=steps)
    assert same(model, twin)


def test_hooks_of_the_user_may_rewrite_the_state_that_is_loaded():
    """torch documents remapping by name in a pre-hook; what the hook gives is what counts."""
    a, b = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    optimizer = Celo2([("a", a), ("b", b)], lr=1e-3, theta=THETA)
    a.grad, b.grad = torch.full((3, 4), 1.0), torch.full((3, 4), 2.0)
    optimizer.step()
    other = Celo2([("b", b), ("a", a)], lr=1e-3, theta=THETA)

    def swap(_, state_dict):
        return {**state_dict, "state": {0: state_dict["state"][1], 1: state_dict["state"][0]}}

    other.register_load_state_dict_pre_hook(swap)
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(other.state[a]["momentum"], optimizer.state[a]["momentum"])


def test_state_of_another_optimizer_is_refused():
    model = small_model()
    with pytest.raises(InputError, match="this state is of another optimizer than Celo2"):
        Celo2(
            [{"params": model.parameters(), "rule": "adamw"}], lr=1e-3, theta=THETA
        ).load_state_dict(torch.optim.AdamW(model.parameters()).state_dict())


def test_the_same_numbers_under_another_name_are_the_same_theta():
    model = small_model()
    state = Celo2(model, lr=1e-3, theta=THETA).state_dict()
    Celo2(model, lr=1e-3, theta=Theta(THETA.weights, name="renamed")).load_state_dict(state)


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


def test_state_of_another_theta_is_refused():
    model = small_model()
    state = Celo2(model, lr=1e-3, theta=THETA).state_dict()
    with pytest.raises(
        InputError,
        match=r"made by theta reference@\w{16}, the optimizer has random@\w{16}; load that theta",
    ):
        Celo2(model, lr=1e-3, theta=Theta.random(0)).load_state_dict(state)


def test_state_of_other_shapes_is_refused_by_the_name_of_its_parameter():
    wide, narrow = (nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2)) for width in (8, 6))
    optimizer, other = Celo2(wide, lr=1e-3, theta=THETA), Celo2(narrow, lr=1e-3, theta=THETA)
    for p in wide.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    message = r"the state 'momentum' of 0\.weight should have shape \(3, 6, 4\) and has \(3, 8, 4\)"
    with pytest.raises(InputError, match=message):
        other.load_state_dict(optimizer.state_dict())


def test_state_made_under_inference_mode_is_used_by_later_steps():
    model, twin = small_model(), small_model()
    optimizer, reference = Celo2(model, lr=1e-3, theta=THETA), Celo2(twin, lr=1e-3, theta=THETA)
    backward(model, 0), backward(twin, 0)
    with torch.inference_mode():
        optimizer.step()
    reference.step()
    train(model, optimizer, 1)
    train(twin, reference, 1)
    assert same(model, twin)


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


def test_a_sparse_gradient_is_refused_by_name_before_anything_is_updated():
    model = nn.ModuleList([nn.Linear(3, 3), nn.Embedding(5, 3, sparse=True)])
    optimizer = Celo2(model, lr=1e-3, theta=THETA)
    before = model[0].weight.detach().clone()
    model[0](model[1](torch.tensor([1]))).sum().backward()
    with pytest.raises(InputError, match=r"the gradient of 1.weight is sparse; use sparse=False"):
        optimizer.step()
    assert torch.equal(model[0].weight, before)


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


def test_bfloat16_state_is_half_the_size_and_right_on_average():
    """The momentum with decay 0.999 changes by less than bfloat16 can represent, but on average."""
    p = nn.Parameter(torch.zeros(300, 400))
    optimizer = Celo2(
        [{"params": [p], "rule": "celo2"}], lr=1e-3, theta=THETA, state_dtype=torch.bfloat16
    )
    for _ in range(40):
        p.grad = torch.full_like(p, 0.3)
        optimizer.step()
    state = optimizer.state[p]
    entries = [state[key] for key in ("momentum", "second_moment")]
    assert sum(x.numel() * x.element_size() for x in entries) == 8 * p.numel()
    for mean, beta in zip(state["momentum"].float().mean((1, 2)), (0.9, 0.99, 0.999), strict=True):
        assert mean.item() == pytest.approx(0.3 * (1 - beta**40), rel=2e-3)
    assert state["second_moment"].float().mean().item() == pytest.approx(
        0.09 * (1 - 0.95**40), rel=2e-3
    )
    nearest = torch.tensor(0.0, dtype=torch.bfloat16)
    for _ in range(2000):
        nearest = (0.999 * nearest.float() + 0.001 * 0.3).bfloat16()
    assert nearest < 0.2, "rounded to nearest it would stop far below 0.3 (1 - 0.999^2000) = 0.26"


def test_bfloat16_state_of_a_vector_is_right_on_average():
    p = nn.Parameter(torch.zeros(4000))
    optimizer = Celo2(
        [{"params": [p], "rule": "celo2"}],
        lr=1e-3,
        theta=THETA,
        orthogonalize=False,
        state_dtype=torch.bfloat16,
    )
    for _ in range(40):
        p.grad = torch.full_like(p, 0.3)
        optimizer.step()
    assert optimizer.state[p]["momentum"][2].float().mean().item() == pytest.approx(
        0.3 * (1 - 0.999**40), rel=1e-2
    )


def test_bfloat16_state_resumes_bit_for_bit():
    model = small_model()
    optimizer = Celo2(model, lr=1e-3, theta=THETA, state_dtype=torch.bfloat16)
    train(model, optimizer, 3)
    twin = copy.deepcopy(model)
    other = Celo2(twin, lr=1.0, theta=THETA, state_dtype=torch.bfloat16)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 3, first=3)
    train(twin, other, 3, first=3)
    assert same(model, twin)


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


def test_keys_of_other_optimizers_in_a_group_are_tolerated():
    model = small_model()
    optimizer = Celo2(
        [{"params": model, "fused": True, "foreach": None, "lr_scale": 0.5}], lr=1e-3, theta=THETA
    )
    train(model, optimizer, 1)
    assert all(group["fused"] is True for group in optimizer.param_groups)


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
