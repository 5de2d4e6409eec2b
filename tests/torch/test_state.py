"""Protects the state: a resumed run is the uninterrupted one; unfitting state is refused."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from celo2 import InputError, Theta
from celo2.torch import Celo2
from tests.cases import THETA
from tests.torch.models import backward, same, small_model, train


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
    kept = checkpoint["state"][0]["averages"].clone()
    for p in twin.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    twin.step()
    assert torch.equal(checkpoint["state"][0]["averages"], kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_state_dtype(dtype):
    model = small_model()
    optimizer = Celo2(model, lr=1e-3, theta=THETA, state_dtype=dtype)
    train(model, optimizer, 2)
    state = optimizer.state[model[2].weight]
    assert state["averages"].dtype == dtype
    assert state["averages"].shape == (4, 16, 24)
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


def test_state_is_made_for_all_trained_parameters_at_the_first_step():
    model = small_model()
    optimizer = Celo2(model, lr=1e-3, theta=THETA)
    model[2].weight.grad = torch.ones_like(model[2].weight)
    optimizer.step()
    assert all(optimizer.state[p] for p in model.parameters())
    assert optimizer.state[model[0].weight]["step"].dtype == torch.float32


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
    assert torch.equal(other.state[a]["averages"], optimizer.state[a]["averages"])


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
    message = r"the state 'averages' of 0\.weight should have shape \(4, 6, 4\) and has \(4, 8, 4\)"
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


def test_bfloat16_state_is_half_the_size_and_right_on_average():
    """The momentum with decay 0.999 changes by less than bfloat16 can represent, but on average."""
    p = nn.Parameter(torch.zeros(300, 400))
    optimizer = Celo2(
        [{"params": [p], "rule": "celo2"}], lr=1e-3, theta=THETA, state_dtype=torch.bfloat16
    )
    for _ in range(40):
        p.grad = torch.full_like(p, 0.3)
        optimizer.step()
    averages = optimizer.state[p]["averages"]
    assert averages.numel() * averages.element_size() == 8 * p.numel()
    *momenta, second_moment = averages.float().mean((1, 2)).tolist()
    for mean, beta in zip(momenta, (0.9, 0.99, 0.999), strict=True):
        assert mean == pytest.approx(0.3 * (1 - beta**40), rel=2e-3)
    assert second_moment == pytest.approx(0.09 * (1 - 0.95**40), rel=2e-3)
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
    assert optimizer.state[p]["averages"][2].float().mean().item() == pytest.approx(
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
