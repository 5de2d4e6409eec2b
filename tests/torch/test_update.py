"""Protects the eager step: the oracle's numbers for any tiles and layout, in bounded memory."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from celo2 import rule
from celo2.torch import Celo2
from celo2.torch.kernels import Limits
from celo2.torch.newton_schulz import orthogonalize as newton_schulz
from tests.cases import REFERENCE, SHAPES, THETA, draw
from tests.oracle import oracle_steps


def torch_layout(x):
    """(..., in, out) as PyTorch keeps it: (out, in, taps...)."""
    return np.array(x) if np.ndim(x) < 2 else np.moveaxis(x, (-1, -2), (0, 1)).copy()


def train(
    w,
    grads,
    orthogonalize=True,
    store=lambda t: t,
    dtype=torch.float32,
    weight_decay=0.0,
    cautious=0.0,
    limits=Limits(),
    axes=None,
    **options,
):
    p = torch.nn.Parameter(store(torch.from_numpy(torch_layout(w)).to(dtype)))
    if axes is None and p.ndim > 2:
        axes = (1, 0)  # tap by tap, as the cases have it
    group = {"params": [p], "rule": "celo2", "weight_decay": weight_decay, "axes": axes}
    group["cautious"] = cautious
    optimizer = Celo2([group], lr=0.01, theta=THETA, orthogonalize=orthogonalize, **options)
    optimizer.limits = limits
    for g in grads:
        p.grad = store(torch.from_numpy(torch_layout(g)).to(dtype))
        optimizer.step()
    return p, optimizer


@pytest.mark.parametrize("tile", [pytest.param(7, marks=pytest.mark.slow), 64, 65536])
@pytest.mark.parametrize("orthogonalize", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_parameters_after_twenty_steps_with_weight_decay(name, orthogonalize, tile):
    w, grads = draw(SHAPES[name])
    p, _ = train(w, grads, orthogonalize, weight_decay=0.1, limits=Limits(tile=tile))
    _, expected = oracle_steps(REFERENCE, grads, w, orthogonalize, weight_decay=0.1)
    np.testing.assert_allclose(p.detach().numpy(), torch_layout(expected[-1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cautious", [0.5, 1.0])
@pytest.mark.parametrize("name", ["tall", "conv", "row"])
def test_weight_decay_is_cautious_where_the_update_moves_a_weight_away_from_zero(name, cautious):
    w, grads = draw(SHAPES[name])
    decay = {"weight_decay": 0.3, "cautious": cautious}
    p, _ = train(w, grads, limits=Limits(tile=64), **decay)
    _, expected = oracle_steps(REFERENCE, grads, w, True, **decay)
    np.testing.assert_allclose(p.detach().numpy(), torch_layout(expected[-1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tile", [64, 65536])
def test_float64_parameters_are_updated_in_float64(tile):
    w, grads = draw((12, 17))
    p, _ = train(w, grads, dtype=torch.float64, limits=Limits(tile=tile))
    _, expected = oracle_steps(REFERENCE, grads, w, True)
    np.testing.assert_allclose(p.detach().numpy(), torch_layout(expected[-1]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("tile", [64, 65536])
@pytest.mark.parametrize(
    "store",
    [
        lambda t: t.to(memory_format=torch.channels_last),
        lambda t: torch.empty(*t.shape[:-1], 2 * t.shape[-1])[..., ::2].copy_(t),
        lambda t: t.mT.contiguous().mT,
    ],
    ids=["channels last", "every second", "transposed"],
)
def test_any_memory_layout_gives_the_same_numbers(store, tile):
    w, grads = draw(SHAPES["conv"])
    plain, _ = train(w, grads, limits=Limits(tile=tile))
    other, _ = train(w, grads, store=store, limits=Limits(tile=tile))
    assert other.stride() != plain.stride()
    torch.testing.assert_close(other.detach(), plain.detach(), rtol=0, atol=1e-5)


@given(st.integers(0, 2**32 - 1), st.floats(-15, 15), st.floats(-3, 3))
def test_every_finite_gradient_gives_a_finite_step(seed, exponent, spread):
    """Over 30 orders of magnitude, mixed within one matrix, through tiles."""
    rng = np.random.default_rng(seed)
    p = torch.nn.Parameter(torch.from_numpy(10.0**spread * rng.standard_normal((9, 14))).float())
    optimizer = Celo2([p], lr=1.0, theta=THETA)
    optimizer.limits = Limits(tile=20)
    for _ in range(3):
        magnitudes = 10.0 ** (exponent + rng.uniform(-5, 5, (9, 14)))
        p.grad = torch.from_numpy(magnitudes * rng.standard_normal((9, 14))).float()
        old = p.detach().double()
        optimizer.step()
        assert torch.isfinite(p).all()
        torch.testing.assert_close(
            (p.double() - old).square().mean().sqrt().item(), 1.0, rtol=1e-2, atol=0
        )


@pytest.mark.parametrize("shape", [(64, 96), (128, 512), (256, 256)])
@pytest.mark.parametrize("kind", ["random", "common mean", "six decades", "rank eight"])
def test_newton_schulz_is_that_of_the_rule_in_float64(kind, shape):
    """Also where singular values span decades; those of random matrices go to about one."""
    torch.manual_seed(0)
    a, b = shape
    d = torch.randn(a, b)
    u, _, v = torch.linalg.svd(d, full_matrices=False)
    values = {"six decades": torch.logspace(0, -6, a), "rank eight": (torch.arange(a) < 8).float()}
    d = (
        {"random": d, "common mean": 1 + 1e-2 * d}[kind]
        if kind not in values
        else (u * values[kind]) @ v
    )
    expected = rule.orthogonalize(torch, THETA.spec, d.double())
    actual = newton_schulz(THETA.spec, d.clone())
    assert (actual.double() - expected).norm() / expected.norm() < 5e-5
    if kind == "random":
        largest = torch.linalg.svdvals(actual)[: a // 2]
        assert 0.6 < largest.min() < largest.max() < 1.3


def test_products_that_may_be_rounded_get_the_plain_form(monkeypatch):
    d = torch.randn(32, 128)
    expected = rule.orthogonalize(torch, THETA.spec, d)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    torch.testing.assert_close(newton_schulz(THETA.spec, d.clone()), expected, rtol=0, atol=1e-6)


def peak_bytes(f):
    """The most that PyTorch's allocator held at a time for f, beside what was there before."""
    with torch.profiler.profile(profile_memory=True) as profile:
        f()
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


TILES = 48 * 4 * Limits().tile
"""Bytes: 40 eager tiles, or the fused kernels' nine, and what Newton-Schulz multiplies at once."""


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2048, 2048), (4096, 1024), (2048, 64, 64)])
@pytest.mark.parametrize("orthogonalize", [True, False])
def test_temporaries_are_the_step_of_one_matrix_small_gram_matrices_and_tiles(shape, orthogonalize):
    """A copy of the largest matrix, tiles, and two Gram matrices, or four that are small."""
    p = torch.nn.Parameter(torch.randn(shape))
    optimizer = Celo2(
        [{"params": [p], "axes": (-1, -2)}],
        lr=1e-3,
        theta=THETA,
        weight_decay=0.1,
        compile=False,
        orthogonalize=orthogonalize,
    )
    p.grad = torch.randn(shape)
    optimizer.step()  # makes the state
    a, b = sorted(shape[-2:])
    gram = (4 if b >= 1.5 * a else 2) * a * a if orthogonalize else 0
    peak = peak_bytes(optimizer.step)
    assert peak > 4 * a * b  # the counter does count
    assert peak <= 4 * (a * b + gram) + TILES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_temporaries_of_a_gpt_are_below_one_copy_of_its_largest_matrix(dtype):
    """In bfloat16, of which AdamW's kernel needs a float32 copy, beside tiles."""
    width, vocabulary = 256, 12288
    model = torch.nn.ModuleList([torch.nn.Embedding(vocabulary, width)])
    model += [
        torch.nn.Linear(width, 3 * width),
        torch.nn.Linear(width, 4 * width),
        torch.nn.Linear(4 * width, width),
    ]
    model.to(dtype)
    optimizer = Celo2(
        [{"params": model}, {"params": [torch.ones(3)]}], lr=1e-3, theta=THETA, compile=False
    )
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    copy = vocabulary * width * dtype.itemsize
    assert peak_bytes(optimizer.step) < copy + (TILES if dtype == torch.bfloat16 else 0)


EXPERTS = {"axes": (2, 1), "rule": "celo2"}


def after_zero_gradients(**options):
    """Of three experts of which the second had no gradient: values and state, after and before."""
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(3, 6, 5))
    optimizer = Celo2([{"params": [p], **EXPERTS}], lr=0.1, theta=THETA, **options)
    p.grad = torch.randn_like(p)
    optimizer.step()
    before, old = p.detach().clone(), copy.deepcopy(optimizer.state[p])
    p.grad = torch.randn_like(p)
    p.grad[1] = 0
    optimizer.step()
    return p.detach(), before, optimizer.state[p], old


@pytest.mark.parametrize("options", [{}, {"state_dtype": torch.bfloat16}, {"orthogonalize": False}])
def test_a_matrix_without_a_gradient_keeps_its_weights_and_state(options):
    p, before, state, old = after_zero_gradients(**options)
    moved = (p - before).square().mean((1, 2)).sqrt()
    torch.testing.assert_close(moved, torch.tensor([0.1, 0.0, 0.1]), rtol=0.02, atol=0)
    assert torch.equal(state["averages"][:, 1], old["averages"][:, 1])
    for key in ("row_moments", "column_moments"):
        new, kept = (x[key].view(3, 3, -1) for x in (state, old))
        assert torch.equal(new[:, 1], kept[:, 1])
        assert not torch.equal(new[:, 0], kept[:, 0])


def test_weight_decay_applies_without_a_gradient():
    p = torch.nn.Parameter(torch.ones(4, 6))
    optimizer = Celo2([{"params": [p], "rule": "celo2", "weight_decay": 0.5}], lr=0.1, theta=THETA)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((4, 6), 0.95))


def test_a_matrix_goes_on_moving_after_its_gradient_vanished_if_asked():
    p, before, state, old = after_zero_gradients(skip_zero_gradients=False)
    moved = (p - before).square().mean((1, 2)).sqrt()
    torch.testing.assert_close(moved, torch.full((3,), 0.1), rtol=0.02, atol=0)
    torch.testing.assert_close(state["averages"][0, 1], 0.9 * old["averages"][0, 1])


@pytest.mark.filterwarnings("ignore:gradients that are not finite:RuntimeWarning")
def test_one_weight_that_is_not_finite_does_not_spread_over_its_matrix():
    """As it is in the compiled kernels, in test_plan."""
    p = torch.nn.Parameter(torch.ones(4, 6))
    p.data[1, 2] = torch.inf
    optimizer = Celo2([("weight", p)], lr=0.1, theta=THETA, compile=False)
    p.grad = torch.randn_like(p)
    optimizer.step()
    assert torch.isfinite(p).sum() == 23
    assert optimizer.skipped() == {"weight": 1}


def test_a_step_may_be_inside_a_compiled_train_step():
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 2)
    )
    twin = copy.deepcopy(model)

    def train_step(model, optimizer):
        optimizer.zero_grad()
        model(torch.ones(3, 6)).square().mean().backward()
        optimizer.step()

    optimizers = [Celo2(m, lr=0.01, theta=THETA) for m in (model, twin)]
    compiled = torch.compile(train_step, backend="eager")
    for _ in range(3):
        compiled(model, optimizers[0])
        train_step(twin, optimizers[1])
    torch.compile(optimizers[0].step, backend="eager")()
    optimizers[1].step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
