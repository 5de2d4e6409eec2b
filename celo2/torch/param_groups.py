"""What users pass, as parameter groups: a module, tensors or groups, each parameter routed, each group of one rule."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from celo2.errors import InputError
from celo2.parameters.routing import ADAMW, CELO2, Override, Route, check_rule, overridden
from celo2.parameters.views import MatrixAxes, MatrixView, matrix_views
from celo2.torch.distributed import shards
from celo2.torch.module_routing import default_axes, route_module, route_tensors

STATE_DTYPES = (torch.float32, torch.bfloat16, torch.float64)
"""float16 is not among them: the squares of ordinary gradients overflow it."""


class Routed(NamedTuple):
    """A parameter and the decision about it."""

    name: str
    tensor: Tensor
    route: Route


def listed(params: nn.Module | Iterable[Any]) -> list[Any]:
    """The first argument of the optimizer as a list of groups, of tensors or of named tensors.

    Raises:
        InputError: it is one tensor, or empty.
    """
    if isinstance(params, nn.Module):
        return [{"params": params}]
    if isinstance(params, Tensor):
        raise InputError("params is one tensor; pass a list of tensors, a module, named parameters or groups")
    items = list(params)
    if not items:
        raise InputError(NO_PARAMETERS)
    return items


NO_PARAMETERS = "no parameters to optimize: pass a module, named parameters, parameters or groups"


def end_of_model(groups: Sequence[Any]) -> nn.Module | None:
    """The module whose last layer may be the output head: the last one, where all that is passed are modules with layers."""
    dicts = [group for group in groups if isinstance(group, dict) and group.get("rule") is None]
    modules = [group["params"] for group in dicts if isinstance(group.get("params"), nn.Module)]
    matrices = sum(p.ndim > 1 for module in modules for p in module.parameters())
    return modules[-1] if len(modules) == len(groups) and matrices > 1 else None


def routed(
    group: dict[str, Any], number: int, stated_rule: str | None, override: Override | None, end: nn.Module | None
) -> list[Routed]:
    """Each parameter of a group with its route, after what the user said of it; `number` is for names where there are none."""
    params = group.get("params")
    if params is None:
        raise InputError("a group has no 'params'; give it the tensors or the module to optimize")
    if isinstance(params, nn.Module):
        found = [Routed(*item) for item in route_module(params, ends_model=params is end)]
    else:
        items = [params] if isinstance(params, Tensor) else list(params)
        known = group.get("param_names") or [None] * len(items)  # as the base class keeps them beside tensors
        if len(known) != len(items):
            raise InputError(f"a group has {len(items)} params and {len(known)} param_names; give a name for each")
        named = [item if isinstance(item, tuple) else (name, item) for name, item in zip(known, items, strict=True)]
        for _, p in named:
            if not isinstance(p, Tensor):
                raise InputError(
                    f"cannot optimize a {type(p).__name__}; pass tensors, (name, tensor) pairs, groups or a module"
                )
        # Every parameter gets a name, since torch takes groups with names and without only by themselves.
        names = [name or f"tensor {i} of group {number}" for i, (name, _) in enumerate(named)]
        routes = (dataclasses.replace(r, name=name) for r, name in zip(route_tensors(named), names, strict=True))
        found = [Routed(name, p, route) for name, (_, p), route in zip(names, named, routes, strict=True)]
    return [Routed(name, p, _decided(route, group, stated_rule, override)) for name, p, route in found]


def _decided(route: Route, group: dict[str, Any], stated_rule: str | None, override: Override | None) -> Route:
    if stated_rule is not None:
        check_rule(stated_rule)
        return dataclasses.replace(route, rule=stated_rule, why="stated by its group", doubtful=False)
    if not group["orthogonalize"]:
        route = dataclasses.replace(route, rule=CELO2, why=f"Celo2-base moves everything ({route.why})", doubtful=False)
    elif route.doubtful and stated_axes(group) is not None:
        route = dataclasses.replace(route, rule=CELO2, why="axes stated by its group", doubtful=False)
    route = overridden(route, override)
    if route.doubtful:
        mend = "state rule= or axes= in its group, or pass the module"
        warnings.warn(f"{route.name} {route.shape} goes to {route.rule}: {route.why}; {mend}", stacklevel=5)
    return route


def split(group: dict[str, Any], parameters: Sequence[Routed], adamw_factor: float) -> list[tuple[dict[str, Any], list[Route]]]:
    """A group as groups of one rule and one reading of axes each, hidden matrices first, with the routes of each."""
    buckets: dict[tuple[str, MatrixAxes | None], list[Routed]] = {}
    for each in parameters:
        _check_parameter(each)
        p, route = each.tensor, each.route
        axes = (stated_axes(group) or route.axes) if route.rule == CELO2 and p.ndim > 1 else None
        if axes is not None:
            matrix_views(p.shape, axes)  # tells at once of axes that do not fit
        buckets.setdefault((route.rule, axes), []).append(each)
    result = []
    for rule, axes in sorted(buckets, key=lambda bucket: bucket[0] == ADAMW):
        members = buckets[rule, axes]
        part = {**group, "params": [(name, p) for name, p, _ in members], "rule": rule}
        part |= {"axes": None, "split_axis": None, "split_sizes": None}
        if axes is not None:
            part |= {"axes": (axes.fan_in, axes.fan_out), "split_axis": axes.split_axis, "split_sizes": axes.split_sizes}
        factor = adamw_factor if rule == ADAMW else 1.0
        lr = group["lr"]
        part["lr"] = lr.clone() * factor if isinstance(lr, Tensor) else lr * factor  # schedulers write into tensors
        result.append((part, [each.route for each in members]))
    return result


def stated_axes(group: dict[str, Any]) -> MatrixAxes | None:
    """What a group says of the axes of all its parameters, if anything."""
    if group.get("axes") is None and not group.get("split_sizes"):
        return None
    axes = group.get("axes") or (1, 0)
    if len(axes) != 2:
        raise InputError(f"axes are {axes}; give two, (fan_in, fan_out)")
    fan_in, fan_out = axes
    return MatrixAxes(fan_in, fan_out, group.get("split_axis", fan_out), tuple(group.get("split_sizes") or ()))


def parts(p: Tensor, group: dict[str, Any]) -> list[MatrixView]:
    """The batches of matrices in a parameter, as its group reads it."""
    return matrix_views(p.shape, stated_axes(group) or default_axes(p.shape))


def check_hyper_parameters(group: dict[str, Any]) -> None:
    """Raises InputError if a value is out of its range; the message names it."""
    for key in ("lr", "weight_decay", "adamw_lr_multiplier", "eps"):
        value = group[key]
        if key == "lr" and isinstance(value, Tensor) and value.ndim:
            raise InputError(f"lr is a tensor of shape {tuple(value.shape)}; it must be a number or a tensor without axes")
        numbers = (int, float, Tensor) if key == "lr" else (int, float)
        if not isinstance(value, numbers) or not value >= 0:
            raise InputError(f"{key} is {value!r}; it must be a number that is not below 0")
    betas = group["betas"]
    if not isinstance(betas, (tuple, list)) or len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise InputError(f"betas are {betas}; give two, each at least 0 and below 1")
    if group["state_dtype"] not in STATE_DTYPES:
        raise InputError(f"state_dtype is {group['state_dtype']}; take one of {', '.join(map(str, STATE_DTYPES))}")
    if group["newton_schulz_dtype"] not in (torch.float32, torch.bfloat16):
        raise InputError(f"newton_schulz_dtype is {group['newton_schulz_dtype']}; take torch.float32 or torch.bfloat16")
    if group.get("maximize"):
        raise InputError("maximize is True, which Celo2 does not do; negate the loss")


def check_gradient(p: Tensor, name: str) -> None:
    """Raises InputError if a gradient is of a kind that no rule takes."""
    if p.grad is not None and p.grad.layout != torch.strided:
        raise InputError(f"the gradient of {name} is sparse; use sparse=False in its Embedding")


def check_one_process() -> None:
    """Raises InputError where gradients would be moved by before other ranks' were added."""
    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        raise InputError("in_backward is for one process, and this is one of several; leave in_backward out")


def _check_parameter(parameter: Routed) -> None:
    if parameter.tensor.is_complex():
        raise InputError(f"{parameter.route.name} is complex; optimize torch.view_as_real of it instead")
    if not parameter.tensor.is_floating_point():
        raise InputError(f"{parameter.route.name} is of {parameter.tensor.dtype}; only floats can be optimized")
    shards(parameter.tensor, parameter.route.name)  # tells at once of layouts that are not supported
