"""Muon with its Newton-Schulz products in float32, for processors without fast bfloat16."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Muon


class Float32Muon(Muon):
    """`torch.optim.Muon` without its cast to bfloat16; everything else is the same."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)
        return loss

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None
        state, momentum = self.state[p], group["momentum"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p.grad)
        buffer = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
        direction = p.grad.lerp(buffer, momentum) if group["nesterov"] else buffer
        update = newton_schulz(direction, group["ns_coefficients"], group["ns_steps"], group["eps"])
        p.mul_(1 - group["lr"] * group["weight_decay"])
        rows, columns = p.shape
        p.add_(update, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))


def newton_schulz(
    x: Tensor, coefficients: tuple[float, float, float], iterations: int, epsilon: float
) -> Tensor:
    """Orthogonalize a matrix in float32 by a quintic iteration on its smaller Gram matrix."""
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    x = x.float().T if tall else x.float()
    x = x / x.norm().clamp(min=epsilon)
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def bfloat16_slowdown(size: int = 512) -> float:
    """Measure how many times slower a product of two matrices is in bfloat16 than in float32."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(size, size, dtype=dtype)
        times = []
        for _ in range(4):  # the first may load kernels
            began = time.perf_counter()
            torch.mm(x, x)
            times.append(time.perf_counter() - began)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] / seconds[torch.float32]
