"""Celo2 as a `torch.optim.Optimizer`: parameter groups, state and state dicts."""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from celo2.errors import InputError
from celo2.parameters.routing import ADAMW, Override, Route, Routing
from celo2.policy import Plan
from celo2.theta import Theta, load_theta
from celo2.torch import distributed
from celo2.torch.adamw import needs_no_sync
from celo2.torch.hyper_parameters import checked, with_dtype_names, with_dtypes
from celo2.torch.kernels import Limits, check_compiler, has_compiler
from celo2.torch.param_groups import (
    NO_GRADIENT,
    NO_PARAMETERS,
    WholeModel,
    as_groups,
    check_gradient,
    check_one_process,
    check_unchanged,
    is_one_of_several,
    route_group,
    split_group,
    whole_model,
)
from celo2.torch.plan import Parameter, Planner, read
from celo2.torch.schedule import check_loaded, check_stated, choose
from celo2.torch.state import check_shapes, check_theta, fresh_state, restore_state_dtypes
from celo2.torch.update import update_parameters

Function = TypeVar("Function", bound=Callable[..., Any])


def _not_traced(function: Function) -> Function:
    """Keep Dynamo out of a function.

    It would trace the plan of a step, which is data about tensors and no graph: kernels are
    compiled by themselves. `torch.compiler.disable` alone would hide the signature from type
    checkers.
    """
    return torch.compiler.disable(function)  # type: ignore[return-value]


class Celo2(Optimizer):
    """The learned optimizer Celo2 (arXiv 2602.19142) on hidden matrices, AdamW on the rest.

    The update of every hidden matrix has an RMS of exactly `lr`. Parameters are routed by the type
    of their module, then by name and shape; `routing()` shows which rule updates which parameter,
    and why. A gradient that is not finite is skipped for its tensor alone and counted (`skipped`).

    Give either `total_steps`, and there is nothing to tune, or `lr`, with a schedule of your own.

    In a group, "lr" is the base learning rate and "lr_multiplier" a factor on it, which is
    `adamw_lr_multiplier` for AdamW groups. Weight decay is decoupled, p <- p - lr weight_decay p
    with the base learning rate; biases, norms and tensors below two axes have none unless their
    group states `weight_decay`. With `total_steps`, the optimizer sets "lr" at every step by the
    policy of theta (`plan()` shows it), and raises an error if a scheduler changes it.

    Args:
        params: a module (best: routing then knows types), named parameters, parameters, or groups.
            A group may set any keyword below, and `rule` ("celo2" or "adamw"), `axes` (fan_in,
            fan_out; each an axis or several), `split_axis` and `split_sizes` for parameters that
            are not (out, in) or (out, in, taps...). An `lr` beside a `rule` is not multiplied. With
            `total_steps`, a group may state `lr_scale`, a factor on its learning rate. With
            `cautious`, up to 1, that part of the weight decay is left out where the update moves a
            weight away from zero; it is the policy's with `total_steps`, and 0 with `lr`.
        lr: learning rate, a float or a 0-d tensor: the RMS of the update of every hidden matrix.
        total_steps: number of calls of `step` in the whole run; learning rates, warm-up, decay and
            weight decay are then those of theta's policy. At a resume another number may be given.
        weight_decay: None: the policy's, or 0 with `lr`, where `torch.optim.AdamW` has 0.01.
        adamw_lr_multiplier: learning rate of the AdamW groups over `lr`; None: 20, as in the paper,
            or, with `total_steps`, the policy's.
        theta: name of a theta that ships with the package, path of a theta file, or a `Theta`.
        orthogonalize: whether to apply Newton-Schulz (Celo2) or not (Celo2-base: the learned rule
            on every parameter); None: as theta was meta-trained.
        betas: of AdamW.
        eps: of AdamW.
        state_dtype: of the accumulators of the rule: float32, bfloat16 or float64. float64
            parameters keep float64. bfloat16 halves them to 8 bytes per entry and is rounded
            stochastically (see `celo2.torch.stochastic_rounding`).
        newton_schulz_dtype: of the products of Newton-Schulz; bfloat16 is faster and, as in Muon,
            off by some hundredths.
        compile: whether to fuse the entrywise part of a step by inductor (C++ on a CPU, Triton on a
            GPU), which takes up to a minute the first time and is cached on disk; None: where it
            pays, for models of four million entries and more.
        skip_zero_gradients: whether a matrix whose gradient is exactly zero (an expert without
            tokens) keeps its state and gets no update but weight decay; the published rule goes on
            at RMS `lr`.
        guard: least cosine, between 0 and 1, of the update of a matrix and its momentum of decay
            0.9: an update below it is pushed along the momentum by the least amount that restores
            it, which bounds gradient norms for any theta (docs/guarantee.md). None: no guard.
        in_backward: step each parameter right after its gradient is accumulated and free the
            gradient, so at most one is alive; `step` then has nothing left to do. For one process,
            without gradient accumulation, clipping of the global norm, or `GradScaler`.
        route: overrides of the routing: {regular expression of a name: rule}, or a function
            (name, shape) -> rule or None.

    Raises:
        InputError: a value out of range; both or neither of `lr` and `total_steps`, or a theta
            without a policy; no parameters; a complex, integer, float8, lazy or FSDP1
            parameter; axes that do not fit; no such theta; or `compile` without a C++ compiler.
    """

    limits = Limits()
    """Sizes that decide how a step is divided; to be set before the first step."""

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float | Tensor | None = None,
        *,
        total_steps: int | None = None,
        weight_decay: float | None = None,
        adamw_lr_multiplier: float | None = None,
        theta: str | os.PathLike[str] | Theta = "celo2",
        orthogonalize: bool | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        state_dtype: torch.dtype = torch.float32,
        newton_schulz_dtype: torch.dtype = torch.float32,
        compile: bool | None = None,  # noqa: A002 - the word of torch
        in_backward: bool = False,
        skip_zero_gradients: bool = True,
        guard: float | None = None,
        route: Override | None = None,
    ) -> None:
        _refuse_zero_redundancy_optimizer()
        if in_backward:
            check_one_process()
        self.theta = theta if isinstance(theta, Theta) else load_theta(theta)
        self._route, self._compile, self._in_backward = route, compile, in_backward
        self._routes: list[Route] = []
        if orthogonalize is None:
            orthogonalize = self.theta.spec.newton_schulz
        self._schedule, defaults = choose(
            self.theta, lr, total_steps, weight_decay, adamw_lr_multiplier
        )
        defaults |= {"betas": betas, "eps": eps, "orthogonalize": orthogonalize}
        defaults |= {"state_dtype": state_dtype, "newton_schulz_dtype": newton_schulz_dtype}
        defaults |= {"skip_zero_gradients": skip_zero_gradients, "guard": guard}
        defaults |= {"theta": self.theta.identity}
        self._add_groups(as_groups(params), checked(defaults))

    def _add_groups(self, groups: list[dict[str, Any]], defaults: dict[str, Any]) -> None:
        """Add the groups of the constructor, routed by what they tell together."""
        self._planner: Planner | None = None
        self._added = 0
        self._model = whole_model(groups, defaults["orthogonalize"])
        super().__init__(groups, defaults)
        # A group that is added later is routed alone; the module is not kept alive.
        self._model = WholeModel()
        if not self._routes:
            raise InputError(NO_PARAMETERS)
        if self._compile:
            for _, p, _ in self._members():
                check_compiler(p.device)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Route the parameters of a group and add them, split by rule, axes and weight decay.

        Args:
            param_group: "params" (a module, named parameters or parameters) and any hyperparameters
                of its own.
        """
        check_stated(param_group, self._schedule)
        group = checked({**self.defaults, **param_group})
        if "lr_multiplier" not in param_group:
            literal_lr = param_group.get("rule") is not None and "lr" in param_group
            group["lr_multiplier"] = 1.0 if literal_lr else group.get("adamw_lr_multiplier", 1.0)
        members = route_group(group, self._added, self._route, self._model)
        taken = {name for name, _, _ in self._members()}
        if any(each.name in taken for each in members):
            members = [each._replace(name=f"group {self._added}.{each.name}") for each in members]
        self._added += 1
        for part, routes in split_group(group, members, exempt="weight_decay" not in param_group):
            if self._schedule is not None:
                self._schedule.prepare(part, routes[0].kind, param_group)
            super().add_param_group(part)
            self._routes += routes
            if self._in_backward:
                self._hook(len(self.param_groups) - 1)

    def routing(self) -> Routing:
        """Return which rule updates which parameter, and why, in the order of the groups."""
        routes = []
        for (name, _, group), route in zip(self._members(), self._routes, strict=True):
            why = route.why if route.rule == group["rule"] else "as loaded"
            routes.append(dataclasses.replace(route, name=name, rule=group["rule"], why=why))
        return Routing(routes)

    def plan(self) -> Plan:
        """Return the learning rate of each kind of parameter over the run of `total_steps`.

        Raises:
            InputError: the optimizer was given `lr`, so its schedule is not known.
        """
        if self._schedule is None:
            raise InputError("lr was given, so the schedule is yours; plan() is of total_steps=")
        return self._schedule.plan(self.param_groups)

    @_not_traced
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update all parameters that have a gradient.

        Args:
            closure: computes the loss anew; it is run with gradients on, and its loss returned.

        Raises:
            InputError: a gradient is sparse; a parameter was replaced by FSDP1 or has another
                shape; `in_backward` with a `GradScaler`; with `total_steps`, someone else has set
                a learning rate.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._in_backward and hasattr(self, "found_inf"):
            raise InputError(
                "in_backward=True updates parameters by gradients that GradScaler has not unscaled "
                "yet; leave in_backward out, or use bfloat16 without a scaler"
            )
        if self._schedule is not None:
            if self._in_backward:
                self._schedule.end_backward()
            else:
                self._schedule.begin_step(self.param_groups)
        parameters = []
        for (name, p, group), route in zip(self._members(), self._routes, strict=True):
            check_gradient(p, name)
            check_unchanged(p, name, route.shape)
            # Wrappers may have replaced the tensors that were checked in the constructor.
            shards = distributed.shards(p, name)
            self._init_state(p, group)
            # Every rank joins the step of a sharded parameter, whether it has a gradient or not.
            takes_part = p.grad is not None if shards is None else bool(self.state[p])
            if p.numel() and takes_part:
                parameters.append(read(p, self.state[p], group, shards))
        if not parameters and is_one_of_several():
            warnings.warn(NO_GRADIENT, stacklevel=2)
        self._update(parameters)
        if self._in_backward:
            # Parameters that were frozen when hooks were registered still hold their gradients.
            for _, p, _ in self._members():
                p.grad = None
        return loss

    def _members(self) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
        """Yield (name, parameter, group) of all parameters, in the order of the groups."""
        for group in self.param_groups:
            for name, p in zip(group["param_names"], group["params"], strict=True):
                yield name, p, group

    def _init_state(self, p: Tensor, group: dict[str, Any]) -> None:
        """Make the state of a trained parameter, with or without gradient, so all ranks agree."""
        if not self.state[p] and (p.requires_grad or p.grad is not None):
            self.state[p].update(fresh_state(self.theta.spec, p, group))

    def _update(self, parameters: Sequence[Parameter]) -> None:
        """Update parameters, and warn of gradients that were skipped."""
        if self._planner is None:
            self._planner = Planner(self.theta, self._compiles(), self.limits)
        self._warn(update_parameters(parameters, self._planner))

    def _compiles(self) -> bool:
        """Return whether to compile: as asked for, else where it pays."""
        if self._compile is not None:
            return self._compile
        elements, devices = 0, set()
        for _, p, group in self._members():
            if group["rule"] != ADAMW:
                elements += p.numel()
                devices.add(p.device)
        return elements >= self.limits.compile_from and all(map(has_compiler, devices))

    def _hook(self, number: int) -> None:
        """Step each parameter of a group right after its gradient is accumulated.

        The hooks refer to the optimizer weakly, so parameters do not keep it alive.
        """
        reference = weakref.ref(self)

        def step_parameter(p: Tensor) -> None:
            optimizer = reference()
            if optimizer is not None:
                optimizer._step_one(p, optimizer.param_groups[number])

        for p in self.param_groups[number]["params"]:
            if p.requires_grad:
                p.register_post_accumulate_grad_hook(step_parameter)

    @torch.no_grad()
    def _step_one(self, p: Tensor, group: dict[str, Any]) -> None:
        """Update one parameter and free its gradient."""
        check_gradient(p, "a parameter")
        if self._schedule is not None:
            self._schedule.begin_parameter(p, self.param_groups)
        self._init_state(p, group)
        if p.numel():
            self._update([read(p, self.state[p], group, None)])
        p.grad = None

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether `GradScaler` calls `step` without gradients, so that `step` can say why."""
        return self._in_backward

    def skipped(self) -> dict[str, int]:
        """Return, per parameter, how many gradients were not finite and were skipped.

        Parameters with none are left out. Waits for the device, so it is not called in a step.
        """
        counts = {}
        for name, p, _ in self._members():
            count = int(self.state[p]["skipped"]) if self.state.get(p) else 0
            if count:
                counts[name] = count
        return counts

    def guard_rate(self) -> float:
        """Return the fraction of the matrices' updates that `guard` has pushed in this process.

        It is 0 without a guard. Waits for the device, so it is not called in a step.
        """
        guards = [] if self._planner is None else self._planner.guards()
        updates = sum(guard.updates for guard in guards)
        return sum(int(guard.pushed) for guard in guards) / updates if updates else 0.0

    def _warn(self, outcomes: Sequence[Tensor]) -> None:
        """Report skipped gradients on the CPU, where that needs no sync."""
        for finite in filter(needs_no_sync, outcomes):
            if not finite.numpy():
                message = ", ".join(f"{name} ({count})" for name, count in self.skipped().items())
                warnings.warn(
                    f"gradients that are not finite were skipped, so far: {message}",
                    RuntimeWarning,
                    stacklevel=3,
                )
                return

    def state_dict(self) -> dict[str, Any]:
        """Return state and groups; dtypes stand in the groups by name, as checkpoints need it."""
        state = super().state_dict()
        return {**state, "param_groups": list(map(with_dtype_names, state["param_groups"]))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave; the accumulators keep the dtype they were saved in.

        Raises:
            InputError: the state is of another optimizer, of parameters of other shapes, was made
                by another theta, or with `lr` where this one has `total_steps`.
        """
        loaded = state_dict
        multipliers = [group["lr_multiplier"] for group in self.param_groups]

        def check(_: Optimizer, hooked: dict[str, Any]) -> dict[str, Any]:
            nonlocal loaded
            loaded = {**hooked, "param_groups": list(map(with_dtypes, hooked["param_groups"]))}
            check_theta(loaded, self.theta)
            check_loaded(loaded["param_groups"], self._schedule)
            check_shapes(self, loaded, self.theta.spec)
            return loaded

        # It runs after the user's own hooks, which may rewrite the state.
        last_hook = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(state_dict)
        finally:
            last_hook.remove()
        restore_state_dtypes(self, loaded)
        if self._schedule is not None:
            self._schedule.resume(self.param_groups, multipliers)

    def __getstate__(self) -> dict[str, Any]:
        keys = ("theta", "_route", "_routes", "_model", "_added", "_compile", "_in_backward")
        own = {key: self.__dict__[key] for key in (*keys, "_schedule")}
        return {**super().__getstate__(), **own, "_planner": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Otherwise a state dict is being loaded, into parameters that have their hooks.
        copied = "param_groups" not in self.__dict__
        super().__setstate__(state)
        if copied and self._in_backward:
            for number in range(len(self.param_groups)):
                self._hook(number)


def _refuse_zero_redundancy_optimizer() -> None:
    """Raise InputError inside `ZeroRedundancyOptimizer`, which needs groups that are not split."""
    caller = sys._getframe(2).f_globals.get("__name__")
    if caller == "torch.distributed.optim.zero_redundancy_optimizer":
        raise InputError(
            "ZeroRedundancyOptimizer cannot hold Celo2, which splits parameter groups by rule; "
            "use torch.distributed.fsdp.fully_shard, which shards the state too"
        )
