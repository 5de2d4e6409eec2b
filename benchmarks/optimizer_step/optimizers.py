"""The candidates: from a model to the optimizers that together update all of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from benchmarks.optimizer_step.models import draw_gradients
from celo2 import rule
from celo2.evaluate.torch_demo.muon import Float32Muon
from celo2.parameters.routing import CELO2
from celo2.parameters.views import MatrixAxes, MatrixView, matrix_views
from celo2.theta import load_theta
from celo2.torch import Celo2
from celo2.torch.module_routing import route_module
from celo2.torch.tensor_routing import default_axes

LEARNING_RATE = 1e-4


def adamw(model: nn.Module) -> list[Optimizer]:
    """Return PyTorch's AdamW on everything."""
    return [_adamw(model.parameters())]


def muon(kind: type[Muon], model: nn.Module) -> list[Optimizer]:
    """Return PyTorch's Muon on what Celo2's routing gives its rule."""
    hidden, rest = divided(model)
    matrices = [as_matrix(p) for p, _ in hidden]
    return [kind(matrices, LEARNING_RATE, weight_decay=0.0), _adamw(rest)]


def celo2_(model: nn.Module, orthogonalize: bool = True, **options: Any) -> list[Optimizer]:
    """Return Celo2; without Newton-Schulz it keeps the routing, unlike by its own keyword."""
    optimizer = Celo2(model, LEARNING_RATE, **options)
    for group in optimizer.param_groups:
        group["orthogonalize"] = group["orthogonalize"] and orthogonalize
    return [optimizer]


def naive(model: nn.Module, orthogonalize: bool = True) -> list[Optimizer]:
    """Return Celo2 as one would write it down."""
    hidden, rest = divided(model)
    return [Naive(hidden, orthogonalize), _adamw(rest)]


OPTIMIZERS: dict[str, Callable[[nn.Module], list[Optimizer]]] = {
    "adamw": adamw,
    "muon": partial(muon, Muon),
    "muon-float32": lambda model: muon(Float32Muon, model),
    "celo2": partial(celo2_, compile=True),
    "celo2-bf16": partial(
        celo2_, compile=True, state_dtype=torch.bfloat16, newton_schulz_dtype=torch.bfloat16
    ),
    "celo2-lean": partial(celo2_, compile=True, theta="celo2-lean"),
    "celo2-base": partial(celo2_, compile=True, theta="celo2-base"),
    "celo2-eager": partial(celo2_, compile=False),
    "naive": naive,
    "celo2-no-ns": partial(celo2_, compile=True, orthogonalize=False),
    "naive-no-ns": partial(naive, orthogonalize=False),
}


def _adamw(params: Iterable[Tensor]) -> AdamW:
    return AdamW(params, LEARNING_RATE, weight_decay=0.0, fused=True)


def divided(model: nn.Module) -> tuple[list[tuple[Tensor, MatrixAxes]], list[Tensor]]:
    """Return what Celo2 gives its rule, each with its axes, and the rest."""
    hidden, rest = [], []
    for _, p, route in route_module(model, ends_model=True):
        if route.rule == CELO2:
            hidden.append((p, route.axes or default_axes(p.shape)))
        else:
            rest.append(p)
    return hidden, rest


def as_matrix(p: Tensor) -> Tensor:
    """Return a convolution kernel as a parameter (out, in * taps) of the same storage."""
    if p.ndim == 2:
        return p
    assert p.grad is not None
    matrix = nn.Parameter(p.detach().flatten(1))
    matrix.grad = p.grad.flatten(1)
    return matrix


class Naive(Optimizer):
    """The rule as a direct port has it: all 30 channels at full size, normalized one by one.

    Channels are last, and Newton-Schulz is the formula as it stands, in float32.
    """

    def __init__(self, hidden: Sequence[tuple[Tensor, MatrixAxes]], orthogonalize: bool) -> None:
        theta, device = load_theta("celo2"), hidden[0][0].device
        arrays = [torch.from_numpy(array).to(device) for array in theta.weights]
        self.spec, self.theta = theta.spec, rule.Weights(*arrays)
        self.orthogonalize = orthogonalize
        groups = [{"params": [p], "views": matrix_views(p.shape, axes)} for p, axes in hidden]
        super().__init__(groups, {"lr": LEARNING_RATE})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            (p,), (view,) = group["params"], group["views"]
            self._step_parameter(p, view, group["lr"])

    def _step_parameter(self, p: Tensor, view: MatrixView, lr: float) -> None:
        assert p.grad is not None
        spec, state = self.spec, self.state[p]
        matrix = view.view(torch, p)
        # Gradient and parameter are copied once to the layout of the state, which is faster than to
        # read them across rows each time.
        w, g = matrix.float().contiguous(), view.view(torch, p.grad).float().contiguous()
        if not state:
            state["m"], state["v"] = g.new_zeros(*g.shape, 3), torch.zeros_like(g)
            state["r"] = g.new_zeros(*g.shape[:-1], 3)
            state["c"] = g.new_zeros(*g.shape[:-2], g.shape[-1], 3)
        g = g.clamp(-spec.gradient_clip, spec.gradient_clip)
        state["m"].lerp_(g[..., None], 1 - g.new_tensor(spec.momentum_decays))
        state["v"].lerp_(g * g, 1 - spec.second_moment_decay)
        for kept, axis in ((state["r"], -1), (state["c"], -2)):
            kept.lerp_(
                (g * g + spec.factored_floor).mean(axis)[..., None],
                1 - g.new_tensor(spec.factored_decays),
            )
        x = naive_features(g, w, state["m"], state["v"], state["r"], state["c"])
        x = x * torch.rsqrt(spec.normalize_epsilon + x.square().mean((-3, -2), keepdim=True))
        h = torch.relu(x @ self.theta.w0 + self.theta.b0)
        d = (torch.relu(h @ self.theta.w1 + self.theta.b1) @ self.theta.w2 + self.theta.b2)[..., 0]
        if self.orthogonalize:
            d = rule.orthogonalize(torch, spec, d)
        mean_square = d.square().mean((-2, -1), keepdim=True)
        matrix.sub_(lr * d * torch.rsqrt(spec.normalize_epsilon + mean_square))


def naive_features(g: Tensor, p: Tensor, m: Tensor, v: Tensor, r: Tensor, c: Tensor) -> Tensor:
    """Return the channels, (..., a, b, 30)."""
    g = g[..., None]
    rows, columns = r[..., :, None, :].expand_as(m), c[..., None, :, :].expand_as(m)
    s = torch.rsqrt(v + 1e-8)[..., None]
    by_row = torch.rsqrt((r / (r.mean(-2, keepdim=True) + 1e-9)).clamp(min=1e-9))[..., :, None, :]
    f = by_row * torch.rsqrt(c.clamp(min=1e-9))[..., None, :, :]
    of_gradient = [g, g.clamp(-0.1, 0.1), p[..., None], m, v[..., None], m * s, s, g * f, g * s]
    return torch.cat(
        [*of_gradient, rows, columns, torch.rsqrt(rows + 1e-8), torch.rsqrt(columns + 1e-8), m * f],
        -1,
    )


def check_naive() -> None:
    """Raise AssertionError unless the naive form takes the steps of Celo2."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(5, 7, 3), nn.Linear(24, 16), nn.Linear(16, 40), nn.Linear(40, 3)
    )
    other, before = copy.deepcopy(model), copy.deepcopy(model)
    both = naive(draw_gradients(model)), celo2_(draw_gradients(other), compile=False)
    for optimizer in both[0] * 3 + both[1] * 3:
        optimizer.step()
    hidden = divided(model)[0], divided(other)[0], divided(before)[0]
    for (p, _), (q, _), (old, _) in zip(*hidden, strict=True):
        torch.testing.assert_close(p - old, q - old, rtol=0, atol=0.01 * LEARNING_RATE)
