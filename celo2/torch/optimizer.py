"""Celo2 as a `torch.optim.Optimizer`: state and dispatch. Groups are made in `groups`, numbers in `step` and `adamw`."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from celo2.errors import InputError
from celo2.parameters.routing import ADAMW, Override, Route, Routing
from celo2.parameters.state import ParameterState, moment_shapes, unpack
from celo2.rule import Weights
from celo2.theta import Theta, load_theta
from celo2.torch import adamw, distributed, stacks
from celo2.torch.adamw import AdamWJob
from celo2.torch.backward import move_in_backward
from celo2.torch.compiler import check_compiler, for_any_shape, has_compiler
from celo2.torch.kernels import passes, working_dtype
from celo2.torch.newton_schulz import orthogonalize as newton_schulz
from celo2.torch.param_groups import (
    NO_PARAMETERS,
    check_gradient,
    check_hyper_parameters,
    check_one_process,
    end_of_model,
    listed,
    parts,
    routed,
    split,
)
from celo2.torch.rates import Rates
from celo2.torch.saved import check_theta, keep_dtypes
from celo2.torch.step import Job, Rule, is_at_hand, is_finite, step_, without_autocast

COMPILE_FROM = 1 << 22
"""Entries under the rule from which compiling pays: it saves about 50 ns an entry and step, its half minute in 150 steps."""


class Celo2(Optimizer):
    """The learned optimizer Celo2 (arXiv 2602.19142): its rule on hidden matrices, AdamW on the rest.

    Every matrix moves by an RMS of exactly `lr` a step. Parameters are routed by the type of their module, then by name
    and shape; `routing()` tells who got what, and why. A gradient that is not finite is skipped for its tensor alone and
    counted (see `skipped`).

    Args:
        params: a module (best: routing then knows types), named parameters, parameters, or groups. A group may set any
            keyword below, and `rule` ("celo2" or "adamw"), `axes` (fan_in, fan_out), `split_axis` and `split_sizes` for
            parameters that are not (out, in) or (out, in, taps...). An `lr` beside a `rule` is taken as it is.
        lr: learning rate, a float or a 0-d tensor: the RMS of a step of every hidden matrix.
        weight_decay: decoupled, on both rules.
        adamw_lr_multiplier: rate of the AdamW groups over `lr`; 20 in the paper.
        theta: name of a theta that ships with the package, path of a theta file, or a `Theta`.
        orthogonalize: Newton-Schulz on (Celo2) or off (Celo2-base: the rule alone, on every parameter); None: as theta
            was meta-trained.
        betas: of AdamW.
        eps: of AdamW.
        state_dtype: of the accumulators of the rule, float32, bfloat16 or float64; float64 parameters keep float64. bfloat16
            halves them to 8 bytes an entry and is rounded at random (see `celo2.torch.stochastic_rounding`).
        newton_schulz_dtype: of Newton-Schulz' products; bfloat16 is faster and, as in Muon, off by some hundredths.
        compile: fuse the entry-by-entry part of a step by inductor (C++ on a CPU, Triton on a GPU), which takes up to a minute
            the first time and is kept on disk; None: where it pays, for models of four million entries and more.
        in_backward: move each parameter as soon as its gradient is there, and free the gradient, so that there are never two;
            `step` then has nothing left to do. For one process, no accumulation of gradients and no clipping of their norm.
        route: overrides of the routing: {regular expression of a name: rule}, or a function (name, shape) -> rule or None.

    Raises:
        InputError: a value out of range, no parameters, a complex or integer parameter, axes that do not fit, no such theta,
            or `compile` without a C++ compiler.
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float | Tensor = 1e-3,
        *,
        weight_decay: float = 0.0,
        adamw_lr_multiplier: float = 20.0,
        theta: str | os.PathLike[str] | Theta = "celo2",
        orthogonalize: bool | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        state_dtype: torch.dtype = torch.float32,
        newton_schulz_dtype: torch.dtype = torch.float32,
        compile: bool | None = None,  # noqa: A002 - the word of torch
        in_backward: bool = False,
        route: Override | None = None,
    ) -> None:
        self.theta = theta if isinstance(theta, Theta) else load_theta(theta)
        self._route = route
        self._routes: list[Route] = []
        self._rules: dict[Any, Rule] = {}
        self._compile = compile
        self._fused: bool | None = None
        self._in_backward = in_backward
        if in_backward:
            check_one_process()
        defaults = {
            "lr": lr.clone() if isinstance(lr, Tensor) else lr,
            "weight_decay": weight_decay,
            "adamw_lr_multiplier": adamw_lr_multiplier,
            "orthogonalize": self.theta.spec.orthogonalize if orthogonalize is None else orthogonalize,
            "betas": betas,
            "eps": eps,
            "state_dtype": state_dtype,
            "newton_schulz_dtype": newton_schulz_dtype,
            "theta": self.theta.identity,
        }
        check_hyper_parameters(defaults)
        groups = listed(params)
        self._end = end_of_model(groups)
        super().__init__(groups, defaults)
        self._end = None
        if not self._routes:
            raise InputError(NO_PARAMETERS)
        if compile:
            for device in {p.device for group in self.param_groups for p in group["params"]}:
                check_compiler(device)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Route a group's parameters and add them, as one group a rule and a reading of axes.

        Args:
            param_group: "params" (a module, named parameters or parameters) and any hyper-parameters of its own.
        """
        group = {**self.defaults, **param_group}
        check_hyper_parameters(group)
        stated_rule = param_group.get("rule")
        literal_lr = stated_rule is not None and "lr" in param_group
        members = routed(group, len(self.param_groups), stated_rule, self._route, self._end)
        for part, routes in split(group, members, 1.0 if literal_lr else group["adamw_lr_multiplier"]):
            super().add_param_group(part)
            self._routes += routes
            if self._in_backward:
                move_in_backward(self, len(self.param_groups) - 1)

    def routing(self) -> Routing:
        """Who moves which parameter, and why, in the order of the groups."""
        rules = [group["rule"] for group in self.param_groups for _ in group["params"]]
        pairs = zip(self._routes, rules, strict=True)
        return Routing(r if r.rule == rule else dataclasses.replace(r, rule=rule, why="as loaded") for r, rule in pairs)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step for all parameters that have a gradient; returns the loss of `closure`, which is run with gradients on.

        Raises:
            InputError: a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        whole, spread = [], []
        for group in self.param_groups:
            for name, p in zip(group["param_names"], group["params"], strict=True):
                check_gradient(p, name)
                # Wrappers may have put other tensors in the place of those that were checked when they came in.
                shards = distributed.shards(p, name)
                self._init_state(p, group)
                if p.numel() and shards and self.state[p]:
                    spread.append((p, group, shards))
                elif p.numel() and p.grad is not None:
                    whole.append((p, group))
        with without_autocast({p.device.type for p, *_ in (*whole, *spread)}), for_any_shape():
            rates = Rates()
            outcomes = self._step_whole(whole, rates)
            self._warn([*outcomes, *self._step_sharded(spread, rates)])
        if self._in_backward:  # parameters that were frozen when hooks were given out
            for p, _ in whole:
                p.grad = None
        return loss

    def _init_state(self, p: Tensor, group: dict[str, Any]) -> None:
        """Make state for a parameter that is trained, also before its first gradient: every rank then has the same keys."""
        state = self.state[p]
        if state or not (p.requires_grad or p.grad is not None):
            return
        state["skipped"] = torch.zeros((), dtype=torch.int32, device=p.device)
        state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
        if group["rule"] == ADAMW:
            state.update(adamw.init(p))
            return
        per_entry = p.dtype if p.dtype == torch.float64 else group["state_dtype"]
        dtype = torch.promote_types(per_entry, torch.float32)
        spec = self.theta.spec
        rows, columns = moment_shapes(spec, parts(p, group), torch.empty(p.shape, device="meta"), torch)
        state.update(
            ParameterState(
                distributed.zeros(p, per_entry, copies=len(spec.momentum_decays)),
                distributed.zeros(p, per_entry),
                torch.zeros(rows, dtype=dtype, device=p.device),
                torch.zeros(columns, dtype=dtype, device=p.device),
            )._asdict()
        )

    def _step_whole(self, whole: Iterable[tuple[Tensor, dict[str, Any]]], rates: Rates) -> list[Tensor]:
        """Move parameters of which all is here; returns whether their gradients were finite.

        Large ones go at once, so that what was made for them alone is free again; small ones wait for each other.
        """
        outcomes, small, by_adamw = [], [], []
        for p, group in whole:
            finite, jobs = self._jobs(p, group, rates)
            outcomes.append(finite)
            for job in jobs:
                if isinstance(job, AdamWJob):
                    by_adamw.append(job)
                elif stacks.is_small(job):
                    small.append(job)
                else:
                    step_(job)
            if p.numel() > adamw.TILE:
                adamw.step_all(by_adamw)
                by_adamw = []
        stacks.step_all(small)
        adamw.step_all(by_adamw)
        return outcomes

    def _jobs(self, p: Tensor, group: dict[str, Any], rates: Rates) -> tuple[Tensor, Sequence[Job | AdamWJob]]:
        """What is to be done for one parameter: (whether its gradient is finite, 0-d, which nothing waits for; jobs)."""
        state = {key: distributed.local(value) for key, value in self.state[p].items()}
        p, g = distributed.local(p), distributed.local(distributed.gradient(p))
        finite = is_finite(g)
        state["skipped"] += ~finite
        if group["rule"] == ADAMW:
            return finite, [AdamWJob(p, g, state, finite, group)]
        how = rates.move(p, state, finite, group)
        batches = parts(p, group)
        views = unpack(torch, batches, ParameterState(*(state[key] for key in ParameterState._fields)))
        jobs = []
        for part, accumulators in zip(batches, views, strict=True):
            w = part.view(torch, p)
            jobs.append(Job(self._rule(w, state, group, part.is_vector), accumulators, part.view(torch, g), w, how))
        return finite, jobs

    def _step_sharded(self, spread: Sequence[tuple[Any, dict[str, Any], distributed.Shards]], rates: Rates) -> list[Tensor]:
        """Move the parameters of which each rank has a part, together; returns whether their gradients were finite."""
        gradients = [distributed.gradient(p) for p, _, _ in spread]
        near = [None if g is None else distributed.local(g) for g in gradients]
        flags = distributed.all_finite(near, [shards.group for _, _, shards in spread])
        jobs, by_adamw, outcomes = [], [], []
        for (p, group, shards), g, (some, finite) in zip(spread, gradients, flags, strict=True):
            state = self.state[p]
            g = torch.zeros_like(p) if g is None else g
            state["skipped"] += some & ~finite
            outcomes.append(finite)
            finite = some & finite
            if group["rule"] == ADAMW:
                local_state = {key: distributed.local(value) for key, value in state.items()}
                by_adamw.append(AdamWJob(distributed.local(p), distributed.local(g), local_state, finite, group))
                continue
            how = rates.move(p, state, finite, group)
            accumulators = ParameterState(*(state[key] for key in ParameterState._fields))
            if p.ndim == 1:
                rule = self._rule(distributed.local(p)[None], state, group, True)
                distributed.step_vector(rule, accumulators, g, p, shards, how)
                continue
            for matrices in distributed.matrices(p, g, accumulators, shards, parts(p, group)):  # type: ignore[arg-type]
                jobs.append(distributed.ShardedJob(matrices, self._rule(matrices.p, state, group, False, spread=True), how))
        adamw.step_all(by_adamw)
        distributed.step_all(jobs)
        return outcomes

    def _rule(self, w: Tensor, state: dict[str, Tensor], group: dict[str, Any], vector: bool, spread: bool = False) -> Rule:
        """The rule for matrices of this kind."""
        # Sides of length one, or none, would need kernels of their own; so would parts of shards that do not lie in one piece.
        in_one_piece = w.ndim == 2 and (w.is_contiguous() or w.mT.is_contiguous())
        fused = self._fuses() and min(w.shape[-2:]) > 1 and (in_one_piece or not spread)
        precision = group["newton_schulz_dtype"] if group["orthogonalize"] and not vector else None
        key = (working_dtype(w, state["momentum"]), w.device, fused, precision)
        if key not in self._rules:
            theta = Weights(*(torch.tensor(x, dtype=key[0], device=w.device) for x in self.theta.weights))
            half = torch.bfloat16 if precision == torch.bfloat16 else None
            orthogonalize = functools.partial(newton_schulz, dtype=half) if precision else None
            self._rules[key] = Rule(self.theta.spec, theta, passes(fused, w.device), orthogonalize)
        return self._rules[key]

    def _fuses(self) -> bool:
        """Whether to compile, decided once: as asked for, else where it pays."""
        if self._fused is None:
            ruled = [p for group in self.param_groups if group["rule"] != ADAMW for p in group["params"]]
            pays = sum(p.numel() for p in ruled) >= COMPILE_FROM and has_compiler(ruled[0].device)
            self._fused = pays if self._compile is None else self._compile
        return self._fused

    @torch.no_grad()
    def _step_one(self, p: Tensor, group: dict[str, Any]) -> None:
        """Move one parameter as soon as its gradient is there, and free the gradient."""
        check_gradient(p, "a parameter")
        self._init_state(p, group)
        if p.numel():
            with without_autocast({p.device.type}), for_any_shape():
                self._warn(self._step_whole([(p, group)], Rates()))
        p.grad = None

    def skipped(self) -> dict[str, int]:
        """How many gradients of each parameter were not finite and were skipped; parameters with none are left out.

        Waits for the device, so it is not called in a step.
        """
        pairs = [pair for group in self.param_groups for pair in zip(group["param_names"], group["params"], strict=True)]
        counts = {name: int(self.state[p]["skipped"]) for name, p in pairs if "skipped" in self.state.get(p, {})}
        return {name: count for name, count in counts.items() if count}

    def _warn(self, outcomes: Sequence[Tensor]) -> None:
        """Tell of skipped gradients where that costs no wait: on the CPU. Elsewhere `skipped()` tells."""
        here = filter(is_at_hand, outcomes)
        if not all(finite.numpy() for finite in here):
            message = ", ".join(f"{name} ({count})" for name, count in self.skipped().items())
            warnings.warn(f"gradients that are not finite were skipped, so far: {message}", RuntimeWarning, stacklevel=3)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave; the accumulators keep the dtype they were saved in.

        Raises:
            InputError: the state is of another optimizer, or was made by another theta.
        """
        loaded = state_dict

        def check(_: Optimizer, hooked: dict[str, Any]) -> None:
            nonlocal loaded
            loaded = hooked
            check_theta(hooked, self.theta)

        last_hook = self.register_load_state_dict_pre_hook(check)  # after the user's own, which may rewrite the state
        try:
            super().load_state_dict(state_dict)
        finally:
            last_hook.remove()
        keep_dtypes(self, loaded)

    def __getstate__(self) -> dict[str, Any]:
        own = {key: self.__dict__[key] for key in ("theta", "_route", "_routes", "_end", "_compile", "_in_backward")}
        return {**super().__getstate__(), **own, "_rules": {}, "_fused": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        copied = "param_groups" not in self.__dict__  # else a state dict is being loaded, into parameters that have their hooks
        super().__setstate__(state)
        if copied and self._in_backward:
            for number in range(len(self.param_groups)):
                move_in_backward(self, number)
