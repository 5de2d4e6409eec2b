"""Protects `total_steps=`: the learning rates of the plan at every step, also after a resume, and a
sentence for whoever sets them from outside."""

import copy
import dataclasses
import itertools
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from celo2 import InputError
from celo2.policy import plan
from celo2.torch import Celo2, adamw
from tests.cases import POLICY
from tests.cases import THETA as RULE
from tests.torch.models import backward, same, train

THETA = dataclasses.replace(RULE, policy=POLICY)
KINDS = ["hidden", "embedding", "head", "vector"]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 8)
        self.first = nn.Linear(24, 16)
        self.norm = nn.LayerNorm(16)
        self.second = nn.Linear(16, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, tokens):
        h = self.norm(torch.relu(self.first(self.embedding(tokens).flatten(1))))
        return self.head(torch.relu(self.second(h)))


def learning_rates(optimizer):
    """{kind: its learning rate now}."""
    return {g["kind"]: g["lr"] * g["lr_multiplier"] for g in optimizer.param_groups}


def shrunk(model, size=0.05):
    """Scale hidden matrices so that the median size, of two the lower, is `size`."""
    with torch.no_grad():
        now = model.second.weight.square().mean().sqrt() * 16**0.5
        model.first.weight.mul_(2.0)
        model.second.weight.mul_(size / now)
    return model


def test_small_weights_scale_the_learning_rates_for_the_whole_run():
    model = shrunk(Model())
    optimizer = Celo2(model, total_steps=8, theta=THETA)
    expected = plan(POLICY, 8, range(8)).learning_rates
    shown = optimizer.plan().learning_rates["vector"]
    assert shown == pytest.approx([0.05 * value for value in expected["vector"]], rel=1e-5)
    for step in range(3):
        train(model, optimizer, 1, step)
        now = learning_rates(optimizer)
        for kind in KINDS:
            assert now[kind] == pytest.approx(0.05 * expected[kind][step], rel=1e-5), (kind, step)
    other = Celo2(copy.deepcopy(model), total_steps=8, theta=THETA)
    other.load_state_dict(optimizer.state_dict())  # the weights have grown, the factor is the same
    assert learning_rates(other) == learning_rates(optimizer)


def test_a_wide_model_has_a_smaller_learning_rate_of_hidden_matrices():
    """The shorter sides are 16 and 12, of which the lower counts; the factor is sqrt(3 / 12)."""
    theta = dataclasses.replace(RULE, policy=POLICY._replace(reference_width=3.0))
    model = Model()
    optimizer = Celo2(model, total_steps=8, theta=theta)
    expected = plan(POLICY, 8, range(8)).learning_rates
    shown = optimizer.plan().learning_rates
    assert shown["hidden"][0] == pytest.approx(0.5 * expected["hidden"][0])
    for step in range(3):
        train(model, optimizer, 1, step)
        now = learning_rates(optimizer)
        for kind in KINDS:
            factor = 0.5 if kind == "hidden" else 1.0
            assert now[kind] == pytest.approx(factor * expected[kind][step], rel=1e-6), (kind, step)
    other = Celo2(copy.deepcopy(model), total_steps=8, theta=theta)
    other.load_state_dict(optimizer.state_dict())
    assert learning_rates(other) == learning_rates(optimizer)


def test_a_model_learns_without_a_learning_rate():
    model = Model()
    losses = train(model, Celo2(model, total_steps=150), 150)
    assert losses[-1] < 0.2 * losses[0]


def test_groups_follow_the_plan():
    model = Model()
    optimizer = Celo2(model, total_steps=20, theta=THETA)
    expected = plan(POLICY, 20, range(20)).learning_rates
    assert [group["kind"] for group in optimizer.param_groups] == KINDS
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected["hidden"][0])
    for step in range(20):
        train(model, optimizer, 1, step)
        now = learning_rates(optimizer)
        for kind in KINDS:
            assert now[kind] == pytest.approx(expected[kind][step], rel=1e-12), (kind, step)
    assert str(optimizer.plan()) == str(plan(POLICY, 20))


def test_updates_are_those_of_the_same_learning_rates_set_from_outside():
    model, twin = Model(), Model()
    optimizer = Celo2(model, total_steps=6, theta=THETA)
    base = plan(POLICY, 6, range(6)).learning_rates["hidden"]
    groups = []
    for kind, modules in {
        "hidden": [twin.first.weight, twin.second.weight],
        "embedding": [twin.embedding.weight],
        "head": [twin.head.weight],
        "vector": [p for p in twin.parameters() if p.ndim < 2],
    }.items():
        rule = "celo2" if kind == "hidden" else "adamw"
        decay = 0.0 if kind == "vector" else 0.1
        groups.append({"params": modules, "rule": rule, "weight_decay": decay, "cautious": 0.5})
        groups[-1]["lr_multiplier"] = POLICY.multipliers(np, 6)[kind]
    other = Celo2(groups, lr=1.0, theta=THETA)
    for step in range(6):
        train(model, optimizer, 1, step)
        for group in other.param_groups:
            group["lr"] = base[step]
        train(twin, other, 1, step)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("through", ["state dict", "pickle", "deepcopy", "distributed checkpoint"])
def test_a_resumed_run_is_the_same_to_the_bit(through):
    model = Model()
    optimizer = Celo2(model, total_steps=8, theta=THETA)
    train(model, optimizer, 3)
    twin = copy.deepcopy(model)
    if through == "state dict":
        other = Celo2(twin, total_steps=8, theta=THETA)
        other.load_state_dict(optimizer.state_dict())
    elif through == "distributed checkpoint":
        other = Celo2(twin, total_steps=8, theta=THETA)
        saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
        set_optimizer_state_dict(twin, other, saved)
    else:
        both = {"model": model, "optimizer": optimizer}
        both = pickle.loads(pickle.dumps(both)) if through == "pickle" else copy.deepcopy(both)
        twin, other = both["model"], both["optimizer"]
    assert learning_rates(other) == learning_rates(optimizer)
    train(model, optimizer, 5, 3)
    train(twin, other, 5, 3)
    assert same(model, twin)


def test_a_checkpoint_library_that_makes_state_takes_no_step():
    model, twin = Model(), Model()
    optimizer, other = (Celo2(m, total_steps=8, theta=THETA) for m in (model, twin))
    get_optimizer_state_dict(twin, other)
    train(model, optimizer, 1)
    train(twin, other, 1)
    assert learning_rates(other) == learning_rates(optimizer)


def test_total_steps_may_be_corrected_at_a_resume():
    model, twin = Model(), Model()
    optimizer = Celo2(model, total_steps=8, theta=THETA)
    train(model, optimizer, 4)
    other = Celo2(twin, total_steps=100, theta=THETA)
    other.load_state_dict(optimizer.state_dict())
    train(twin, other, 1, 4)
    expected = plan(POLICY, 100, [4]).learning_rates
    assert learning_rates(other) == {kind: pytest.approx(expected[kind][0]) for kind in KINDS}


def test_steps_past_the_end_stay_at_the_last_learning_rate_and_warn_once():
    model = Model()
    optimizer = Celo2(model, total_steps=2, theta=THETA)
    train(model, optimizer, 2)
    last = learning_rates(optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, optimizer, 3)
    assert learning_rates(optimizer) == last
    assert [str(each.message).partition(",")[0] for each in caught] == [
        "training goes on after its 2 total_steps"
    ]


def by_scheduler(optimizer):
    CosineAnnealingLR(optimizer, 10).step()


def by_hand(optimizer):
    optimizer.param_groups[1]["lr"] = 0.5


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("change", [by_scheduler, by_hand])
def test_a_learning_rate_set_from_outside_is_refused_and_nothing_is_updated(change):
    model = Model()
    optimizer = Celo2(model, total_steps=10, theta=THETA)
    train(model, optimizer, 3)
    before = copy.deepcopy(model)
    change(optimizer)
    with pytest.raises(InputError, match=r"lr of a group is .*; to own the schedule, give lr="):
        train(model, optimizer, 1, 3)
    assert same(model, before)


def test_a_constant_scheduler_changes_nothing():
    """Trainers that insist on a scheduler are content with this one."""
    model, twin = Model(), Model()
    optimizer, other = (Celo2(m, total_steps=6, theta=THETA) for m in (model, twin))
    scheduler = LambdaLR(optimizer, lambda _: 1.0)
    for step in range(6):
        train(model, optimizer, 1, step)
        scheduler.step()
    train(twin, other, 6)
    assert same(model, twin)


def test_in_backward_counts_backward_passes_with_and_without_calls_of_step():
    models = [Model() for _ in range(3)]
    plain, called, uncalled = (
        Celo2(model, total_steps=6, theta=THETA, in_backward=i > 0)
        for i, model in enumerate(models)
    )
    train(models[0], plain, 5)
    train(models[1], called, 5)
    for step in range(5):
        backward(models[2], step)
    for model, optimizer in zip(models[1:], (called, uncalled), strict=True):
        assert learning_rates(optimizer) == learning_rates(plain)
        for p, q in zip(model.parameters(), models[0].parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


def test_factors_that_a_group_states():
    model = Model()
    slow = {"params": model.first, "lr_scale": 0.25}
    rest = {"params": [model.embedding.weight, model.head.weight], "rule": "adamw"}
    optimizer = Celo2([slow, rest | {"lr_multiplier": 3.0}], total_steps=10, theta=THETA)
    base = plan(POLICY, 10, [0]).learning_rates["hidden"][0]
    found = [(g["kind"], g["lr"], g["lr_multiplier"]) for g in optimizer.param_groups]
    vector = POLICY.multipliers(np, 10)["vector"]
    assert found == [
        ("hidden", pytest.approx(0.25 * base), 1.0),
        ("vector", pytest.approx(0.25 * base), pytest.approx(vector)),
        ("head", pytest.approx(base), 3.0),
    ]


def test_a_group_added_later_joins_the_schedule():
    model = Model()
    optimizer = Celo2(model.first, total_steps=10, theta=THETA)
    train(model, optimizer, 4)
    optimizer.add_param_group({"params": model.second})
    assert len({group["lr"] for group in optimizer.param_groups}) == 1
    train(model, optimizer, 1, 4)


def loaded(first, second):
    optimizers = [Celo2(Model(), theta=THETA, **options) for options in (first, second)]
    optimizers[1].load_state_dict(optimizers[0].state_dict())


BY_LR, BY_STEPS = {"lr": 1e-3}, {"total_steps": 5}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Celo2(Model(), theta=THETA), "give either total_steps=.* or lr="),
        (lambda: Celo2(Model(), 1e-3, total_steps=5, theta=THETA), "give either total_steps="),
        (lambda: Celo2(Model(), total_steps=0, theta=THETA), "total_steps is 0; give the number"),
        (lambda: Celo2(Model(), total_steps=5, theta=RULE), "theta 'reference' has no policy"),
        (
            lambda: Celo2(Model(), total_steps=5, adamw_lr_multiplier=5.0, theta=THETA),
            "adamw_lr_multiplier of a group is 5.0, but with total_steps=",
        ),
        (
            lambda: Celo2([{"params": Model(), "lr": 0.1}], total_steps=5, theta=THETA),
            "lr of a group is 0.1, but with total_steps= .*state lr_scale",
        ),
        (lambda: loaded(BY_LR, BY_STEPS), "saved by an optimizer with lr= .*give lr="),
        (lambda: loaded(BY_STEPS, BY_LR), "saved by an optimizer with total_steps= "),
        (lambda: Celo2(Model(), lr=1e-3, theta=THETA).plan(), "lr was given, so the schedule is"),
    ],
)
def test_bad_input_gets_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_the_kinds_of_parameters_by_module_by_name_and_as_stated():
    model = Model()
    of_module = Celo2(model, total_steps=5, theta=THETA)
    of_names = Celo2(model.named_parameters(), total_steps=5, theta=THETA)
    stated = Celo2(model, total_steps=5, theta=THETA, route={"second": "adamw", "head": "celo2"})

    def kinds(optimizer):
        found = {}
        for group in optimizer.param_groups:
            found |= dict.fromkeys(group["param_names"], group["kind"])
        return found

    expected = {"embedding.weight": "embedding", "head.weight": "head"}
    expected |= dict.fromkeys(("first.weight", "second.weight"), "hidden")
    vectors = (("first", "norm", "second", "head"), ("bias",))
    expected |= {".".join(names): "vector" for names in itertools.product(*vectors)}
    expected |= {"norm.weight": "vector"}
    assert kinds(of_module) == kinds(of_names) == expected
    found = kinds(stated)
    assert (found["second.weight"], found["head.weight"]) == ("head", "hidden")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cautious_weight_decay_is_the_same_in_tiles(dtype, monkeypatch):
    """Under AdamW too; a gradient that is not finite decays nothing."""
    found = []
    for tile in (adamw.TILE, 5):
        monkeypatch.setattr(adamw, "TILE", tile)
        model = Model().to(dtype)
        optimizer = Celo2(model, total_steps=8, theta=THETA)
        for step in range(3):
            backward(model, step)
            optimizer.step()
        backward(model, 3)
        model.embedding.weight.grad[0, 0] = torch.nan
        before = model.embedding.weight.detach().clone()
        with pytest.warns(RuntimeWarning, match="not finite were skipped"):
            optimizer.step()
        torch.testing.assert_close(model.embedding.weight.detach(), before, rtol=0, atol=0)
        found.append([p.detach().clone() for p in model.parameters()])
    for whole, tiled in zip(*found, strict=True):
        torch.testing.assert_close(whole, tiled, rtol=0, atol=0)


def test_a_state_from_before_weight_decay_was_cautious_keeps_decaying_as_it_did():
    model = Model()
    saved = Celo2(model, total_steps=8, theta=THETA).state_dict()
    for group in saved["param_groups"]:
        del group["cautious"]
    resumed = Celo2(model, total_steps=8, theta=THETA)
    resumed.load_state_dict(saved)
    plain = Celo2(
        other := copy.deepcopy(model),
        total_steps=8,
        theta=dataclasses.replace(RULE, policy=POLICY._replace(cautious=0.0)),
    )
    assert all(group["cautious"] == 0 for group in resumed.param_groups)
    assert "everywhere" in str(resumed.plan())
    for optimizer, each in ((resumed, model), (plain, other)):
        backward(each, 0)
        optimizer.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_a_group_may_state_how_cautious_its_weight_decay_is():
    model = Model()
    groups = [{"params": model, "cautious": 0.0}]
    assert {g["cautious"] for g in Celo2(groups, total_steps=8, theta=THETA).param_groups} == {0.0}
    with pytest.raises(InputError, match=r"cautious is 1\.5; it must lie between 0 and 1"):
        Celo2([{"params": model, "cautious": 1.5}], total_steps=8, theta=THETA)


@pytest.mark.parametrize("cautious", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("default", [torch.float32, torch.bfloat16])
def test_the_decay_of_adamw_is_exact_in_the_precision_of_the_parameter(default, cautious):
    """Whatever PyTorch's default dtype is; a weight without a gradient decays."""
    w = torch.tensor([1.0, -2.0, 3.0, -4.0], dtype=torch.float64).reshape(2, 2)
    g = torch.tensor([1.0, 1.0, -1.0, 0.0], dtype=torch.float64).reshape(2, 2)
    p = nn.Parameter(w.clone())
    decay = {"weight_decay": 0.1, "cautious": cautious}
    group = {"params": [p], "rule": "adamw", "adamw_lr_multiplier": 1.0, **decay}
    optimizer = Celo2([group], lr=1e-4, eps=1e-14, theta=THETA)
    p.grad = g.clone()
    try:
        torch.set_default_dtype(default)
        optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
    kept = torch.tensor([1.0, 1 - cautious, 1 - cautious, 1.0], dtype=torch.float64).reshape(2, 2)
    expected = w - 1e-4 * (torch.sign(g) + 0.1 * kept * w)
    torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-12)
