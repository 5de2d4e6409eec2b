"""The rule in plain PyTorch, one parameter at a time: to read, to copy, to compare `Celo2` with.

It is several times slower than `Celo2`, and has no routing, no shards, and no other dtype than that
of the parameters (at least float32). Its state is that of `Celo2`, array by array.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from celo2 import rule
from celo2.parameters.state import ParameterState, join, moment_shapes, pack, unpack
from celo2.parameters.views import MatrixAxes, matrix_views
from celo2.theta import Theta, load_theta


class Celo2Reference(Optimizer):
    """The learned optimizer Celo2 as its formulas stand, for hidden matrices.

    Args:
        params: tensors, or groups that may set the keywords below except `theta`.
        lr: learning rate: the RMS of the update of every matrix.
        weight_decay: decoupled weight decay.
        axes: which axes of the parameters are the matrix; by default (out, in), as in Linear.
        orthogonalize: whether to apply Newton-Schulz; it is never applied to vectors.
        skip_zero_gradients: whether a matrix whose gradient is exactly zero keeps its state and
            gets no update but weight decay.
        guard: least cosine of update and momentum, or None; see docs/guarantee.md.
        theta: name of a theta that ships with the package, path of a theta file, or a `Theta`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        weight_decay: float = 0.0,
        axes: MatrixAxes = MatrixAxes(fan_in=1, fan_out=0),
        orthogonalize: bool = True,
        skip_zero_gradients: bool = True,
        guard: float | None = None,
        theta: str | os.PathLike[str] | Theta = "celo2",
    ) -> None:
        self._theta = theta if isinstance(theta, Theta) else load_theta(theta)
        defaults = {"lr": lr, "weight_decay": weight_decay, "axes": axes}
        defaults |= {"orthogonalize": orthogonalize, "skip_zero_gradients": skip_zero_gradients}
        rule.check_kappa(guard)
        defaults |= {"guard": guard}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        spec, dtype = self._theta.spec, torch.promote_types(p.dtype, torch.float32)
        weights = rule.Weights(*(torch.tensor(w, dtype=dtype) for w in self._theta.weights))
        wide_g, wide_p = g.to(dtype), p.to(dtype)
        views = matrix_views(p.shape, group["axes"])
        if not self.state[p]:
            averages = torch.stack([torch.zeros_like(wide_p)] * rule.average_count(spec))
            sides = moment_shapes(spec, views, wide_p, torch)
            moments = (torch.zeros(shape, dtype=dtype) for shape in sides)
            self.state[p] = ParameterState(averages, *moments)._asdict()
        steps, new = [], []
        for view, old in zip(
            views, unpack(torch, views, ParameterState(**self.state[p])), strict=True
        ):
            x = view.view(torch, wide_g)
            active = rule.has_gradient(torch, x) if group["skip_zero_gradients"] else None
            newton_schulz = group["orthogonalize"] and not view.is_vector
            orthogonalize = rule.orthogonalize if newton_schulz else None
            arguments = torch, spec, weights, old, x, view.view(torch, wide_p), orthogonalize
            if group["guard"] is None:
                step, accumulators = rule.update(*arguments, active)
            else:
                step, accumulators, _ = rule.guarded_update(*arguments, group["guard"], active)
            steps.append(step)
            new.append(accumulators)
        self.state[p] = pack(torch, views, new)._asdict()
        p.copy_(wide_p - group["lr"] * (join(torch, views, steps) + group["weight_decay"] * wide_p))
