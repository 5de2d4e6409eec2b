"""The contenders: from a model to the optimizers that together move all of it."""

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

RATE = 1e-4


def adamw(model: nn.Module) -> list[Optimizer]:
    """Of PyTorch, on everything."""
    return [_adamw(model.parameters())]


def muon(kind: type[Muon], model: nn.Module) -> list[Optimizer]:
    """Of PyTorch, on what Celo2's routing gives its rule."""
    hidden, rest = divided(model)
    return [kind([as_matrix(p) for p, _ in hidden], RATE, weight_decay=0.0), _adamw(rest)]


def celo2_(model: nn.Module, orthogonalize: bool = True, **options: Any) -> list[Optimizer]:
    """This package; without Newton-Schulz the routing stays, which the keyword of the constructor would change."""
    optimizer = Celo2(model, RATE, **options)
    for group in optimizer.param_groups:
        group["orthogonalize"] = group["orthogonalize"] and orthogonalize
    return [optimizer]


def naive(model: nn.Module, orthogonalize: bool = True) -> list[Optimizer]:
    """Celo2 as one would write it down."""
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
    "celo2-base": partial(celo2_, compile=True, theta="celo2-base"),
    "celo2-eager": partial(celo2_, compile=False),
    "naive": naive,
    "celo2-no-ns": partial(celo2_, compile=True, orthogonalize=False),
    "naive-no-ns": partial(naive, orthogonalize=False),
}


def _adamw(params: Iterable[Tensor]) -> AdamW:
    return AdamW(params, RATE, weight_decay=0.0, fused=True)


def divided(model: nn.Module) -> tuple[list[tuple[Tensor, MatrixAxes]], list[Tensor]]:
    """What Celo2 gives its rule, each with its axes, and the rest."""
    routed = route_module(model, ends_model=True)
    hidden = [
        (p, route.axes or default_axes(p.shape)) for _, p, route in routed if route.rule == CELO2
    ]
    return hidden, [p for _, p, route in routed if route.rule != CELO2]


def as_matrix(p: Tensor) -> Tensor:
    """A convolution kernel as a parameter (out, in * taps) of the same storage."""
    if p.ndim == 2:
        return p
    assert p.grad is not None
    matrix = nn.Parameter(p.detach().flatten(1))
    matrix.grad = p.grad.flatten(1)
    return matrix


class Naive(Optimizer):
    """The rule as a direct port has it: all 30 channels spread over every matrix, channels last, and normalized one by one.

    Newton-Schulz is the formula as it stands, in float32; the taps of a convolution are a batch.
    """

    def __init__(
        self, hidden: Sequence[tuple[Tensor, MatrixAxes]], orthogonalize: bool, rate: float = RATE
    ) -> None:
        theta = load_theta("celo2")
        self.spec, self.theta = theta.spec, rule.Weights(*map(torch.from_numpy, theta.weights))
        self.orthogonalize = orthogonalize
        groups = [{"params": [p], "pieces": matrix_views(p.shape, axes)} for p, axes in hidden]
        super().__init__(groups, {"lr": rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            (p,), (piece,) = group["params"], group["pieces"]
            self._step_parameter(p, piece, group["lr"])

    def _step_parameter(self, p: Tensor, piece: MatrixView, lr: float) -> None:
        assert p.grad is not None
        spec, state = self.spec, self.state[p]
        view = piece.view(torch, p)
        # Gradient and parameter are laid out as the state is once, which is faster than to read them across each time.
        g, w = (piece.view(torch, x).float().contiguous() for x in (p.grad, p))
        if not state:
            state["m"], state["v"] = g.new_zeros(*g.shape, 3), torch.zeros_like(g)
            state["r"], state["c"] = (
                g.new_zeros(*g.shape[:-1], 3),
                g.new_zeros(*g.shape[:-2], g.shape[-1], 3),
            )
        g = g.clamp(-spec.gradient_clip, spec.gradient_clip)
        state["m"].lerp_(g[..., None], 1 - torch.tensor(spec.momentum_decays))
        state["v"].lerp_(g * g, 1 - spec.second_moment_decay)
        for kept, axis in ((state["r"], -1), (state["c"], -2)):
            kept.lerp_(
                (g * g + spec.factored_floor).mean(axis)[..., None],
                1 - torch.tensor(spec.factored_decays),
            )
        x = naive_features(g, w, state["m"], state["v"], state["r"], state["c"])
        x = x * torch.rsqrt(spec.normalize_epsilon + x.square().mean((-3, -2), keepdim=True))
        h = torch.relu(x @ self.theta.w0 + self.theta.b0)
        d = (torch.relu(h @ self.theta.w1 + self.theta.b1) @ self.theta.w2 + self.theta.b2)[..., 0]
        if self.orthogonalize:
            d = rule.orthogonalize(torch, spec, d)
        view.sub_(
            lr * d * torch.rsqrt(spec.normalize_epsilon + d.square().mean((-2, -1), keepdim=True))
        )


def naive_features(g: Tensor, p: Tensor, m: Tensor, v: Tensor, r: Tensor, c: Tensor) -> Tensor:
    """The channels, (..., a, b, 30)."""
    g = g[..., None]
    rows, columns = (x.expand_as(m) for x in (r[..., :, None, :], c[..., None, :, :]))
    s = torch.rsqrt(v + 1e-8)[..., None]
    by_row = torch.rsqrt((r / (r.mean(-2, keepdim=True) + 1e-9)).clamp(min=1e-9))[..., :, None, :]
    f = by_row * torch.rsqrt(c.clamp(min=1e-9))[..., None, :, :]
    of_gradient = [g, g.clamp(-0.1, 0.1), p[..., None], m, v[..., None], m * s, s, g * f, g * s]
    return torch.cat(
        [*of_gradient, rows, columns, torch.rsqrt(rows + 1e-8), torch.rsqrt(columns + 1e-8), m * f],
        -1,
    )


def check_naive() -> None:
    """The naive form takes the steps of Celo2, or there would be nothing to compare."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(5, 7, 3), nn.Linear(24, 16), nn.Linear(16, 40), nn.Linear(40, 3)
    )
    twin = draw_gradients(copy.deepcopy(model))
    before = copy.deepcopy(model)
    both = naive(draw_gradients(model)), celo2_(twin, compile=False)
    for optimizer in both[0] * 3 + both[1] * 3:
        optimizer.step()
    for (p, _), (q, _), (old, _) in zip(
        divided(model)[0], divided(twin)[0], divided(before)[0], strict=True
    ):
        torch.testing.assert_close(p - old, q - old, rtol=0, atol=0.01 * RATE)
