"""Parameter groups: what users pass, as groups of one optimizer rule and one reading of axes."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from celo2.errors import InputError
from celo2.parameters.routing import (
    ADAMW,
    CELO2,
    EMBEDDING,
    HEAD,
    Override,
    Route,
    check_rule,
    overridden,
)
from celo2.parameters.views import MatrixAxes, MatrixView, matrix_views
from celo2.torch.distributed import shards
from celo2.torch.module_routing import route_module
from celo2.torch.tensor_routing import default_axes, ends_by_order, route_tensors

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NO_PARAMETERS = "no parameters to optimize: pass a module, named parameters, parameters or groups"
NO_GRADIENT = (
    "no parameter has a gradient; if FullyShardedDataParallel (FSDP1) wrapped the model after the "
    "optimizer was made, use torch.distributed.fsdp.fully_shard (FSDP2) and make the optimizer "
    "after it"
)
FSDP1 = (
    "was flattened by FullyShardedDataParallel (FSDP1), which hides its matrices; shard the model "
    "by torch.distributed.fsdp.fully_shard (FSDP2) and make the optimizer after that"
)


class RoutedParameter(NamedTuple):
    """A parameter and the decision about it."""

    name: str
    tensor: Tensor
    route: Route


@dataclasses.dataclass(frozen=True)
class WholeModel:
    """What all groups together tell about their parameters."""

    last_module: nn.Module | None = None
    """Its last layer may be the output head."""
    ends: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """{id: reason} of unnamed tensors that look like embeddings or the output head."""


def as_groups(params: nn.Module | Iterable[Any]) -> list[dict[str, Any]]:
    """Return the first argument of the optimizer as a list of groups.

    Raises:
        InputError: it is one tensor, or empty.
    """
    if isinstance(params, nn.Module):
        return [{"params": params}]
    if isinstance(params, Tensor):
        raise InputError(
            "params is one tensor; pass a list of tensors, a module, named parameters or groups"
        )
    items = list(params)
    if not items:
        raise InputError(NO_PARAMETERS)
    if not all(isinstance(item, dict) for item in items):
        return [{"params": items}]
    groups = [dict(group) for group in items]
    for group in groups:
        # Generators are read once: routing looks at all groups before the first is added.
        if not isinstance(group.get("params"), nn.Module | Tensor | None):
            group["params"] = list(group["params"])
    return groups


def whole_model(groups: Sequence[dict[str, Any]], orthogonalize: bool) -> WholeModel:
    """Return what the groups tell together.

    That is nothing if one states a rule, since the user then decides, or without `orthogonalize`,
    since the learned rule then updates everything.
    """
    modules, unnamed = [], []
    for group in groups:
        if not orthogonalize or group.get("rule") is not None:
            return WholeModel()
        if isinstance(group.get("params"), nn.Module):
            modules.append(group["params"])
        else:
            unnamed += _unnamed(group)
    if len(modules) == len(groups):
        # A single matrix is not called an output head.
        matrices = sum(map(_matrices, modules))
        return WholeModel(last_module=modules[-1] if matrices > 1 else None)
    ends = {id(unnamed[i]): why for i, why in ends_by_order(unnamed).items()}
    _warn_of_guesses(unnamed, ends)
    return WholeModel(ends=ends)


def _matrices(module: nn.Module) -> int:
    """Return the number of parameters of two axes and more."""
    return sum(p.ndim > 1 for p in module.parameters() if not is_lazy(p))


def _unnamed(group: dict[str, Any]) -> list[Tensor]:
    """Return the tensors of a group that is known by nothing but their shapes."""
    params = group.get("params")
    if params is None or group.get("param_names") or states_axes(group):
        return []
    items = [params] if isinstance(params, Tensor) else params
    return [p for p in items if isinstance(p, Tensor) and not is_lazy(p)]


def _warn_of_guesses(unnamed: Sequence[Tensor], ends: Mapping[int, str]) -> None:
    matrices = [p for p in unnamed if p.ndim > 1]
    if len(matrices) < 2:
        return
    guessed = ", ".join(f"{tuple(p.shape)} ({ends[id(p)]})" for p in matrices if id(p) in ends)
    warnings.warn(
        f"{len(matrices)} matrices came without names, so embeddings and the output head were "
        f"guessed: {guessed or 'none'}; pass the model, or model.named_parameters() in the groups",
        stacklevel=5,
    )


def route_group(
    group: dict[str, Any], number: int, override: Override | None, model: WholeModel
) -> list[RoutedParameter]:
    """Return each parameter of a group with its route, after what the user said of it.

    Args:
        group: as the user passed it.
        number: of the group among those the user passed, for tensors without names.
        override: the optimizer's argument `route`.
        model: what is known from all groups together.
    """
    params = group.get("params")
    if params is None:
        raise InputError("a group has no 'params'; give it the tensors or the module to optimize")
    if isinstance(params, nn.Module):
        for name, p in params.named_parameters():
            check_parameter(p, name)
        found = list(map(RoutedParameter._make, route_module(params, params is model.last_module)))
    else:
        found = _route_named(_named(group, params), number, model)
    result = []
    for each in found:
        result.append(each._replace(route=_decided(each.route, group, override)))
    return result


def _named(group: dict[str, Any], params: Any) -> list[tuple[str | None, Tensor]]:
    items = [params] if isinstance(params, Tensor) else list(params)
    # The base class keeps names beside tensors.
    names = group.get("param_names") or [None] * len(items)
    if len(names) != len(items):
        raise InputError(
            f"a group has {len(items)} params and {len(names)} param_names; give a name for each"
        )
    named: list[tuple[str | None, Tensor]] = []
    for name, item in zip(names, items, strict=True):
        named.append(item if isinstance(item, tuple) else (name, item))
    for _, p in named:
        if not isinstance(p, Tensor):
            raise InputError(
                f"cannot optimize a {type(p).__name__}; "
                "pass tensors, (name, tensor) pairs, groups or a module"
            )
    return named


def _route_named(
    named: Sequence[tuple[str | None, Tensor]], number: int, model: WholeModel
) -> list[RoutedParameter]:
    # Every parameter gets a name: PyTorch does not mix groups with names and groups without.
    names = []
    for i, (name, p) in enumerate(named):
        names.append(name or f"tensor {i} of group {number}")
        check_parameter(p, names[-1])
    found = []
    for name, (_, p), route in zip(names, named, route_tensors(named), strict=True):
        if id(p) in model.ends:
            why = model.ends[id(p)]
            kind = HEAD if why.startswith("output head") else EMBEDDING
            route = dataclasses.replace(route, rule=ADAMW, why=why, doubtful=False, adamw_kind=kind)
        found.append(RoutedParameter(name, p, dataclasses.replace(route, name=name)))
    return found


def _decided(route: Route, group: dict[str, Any], override: Override | None) -> Route:
    """Return the route after the user's word; warn of one that stays doubtful."""
    stated = group.get("rule")
    if stated is not None:
        check_rule(stated)
        return dataclasses.replace(route, rule=stated, why="stated by its group", doubtful=False)
    if not group["orthogonalize"]:
        why = f"Celo2-base updates everything ({route.why})"
        route = dataclasses.replace(route, rule=CELO2, why=why, doubtful=False)
    elif route.doubtful and states_axes(group):
        route = dataclasses.replace(
            route, rule=CELO2, why="axes stated by its group", doubtful=False
        )
    route = overridden(route, override)
    if route.doubtful:
        remedy = "state rule= or axes= in its group, or pass the module"
        warnings.warn(
            f"{route.name} {route.shape} goes to {route.rule}: {route.why}; {remedy}", stacklevel=7
        )
    return route


def split_group(
    group: dict[str, Any], parameters: Sequence[RoutedParameter], exempt: bool
) -> list[tuple[dict[str, Any], list[Route]]]:
    """Split a group into groups of one rule, one reading of axes and one weight decay each.

    Where the optimizer has a schedule ("steps" in the group), they are of one kind of parameter.

    Args:
        group: with all hyperparameters; its "lr_multiplier" is that of its AdamW part.
        parameters: its members, routed.
        exempt: whether biases, norms and tensors below two axes get no weight decay.

    Returns:
        The groups, hidden matrices first, each with the routes of its parameters.
    """
    buckets: dict[tuple[str, MatrixAxes | None, bool, str], list[RoutedParameter]] = {}
    for each in parameters:
        route = each.route
        axes = None
        if route.rule == CELO2 and each.tensor.ndim > 1:
            axes = matrix_axes(each.tensor, group) if states_axes(group) else route.axes
        if axes is not None:
            matrix_views(each.tensor.shape, axes)  # raises early if the axes do not fit
        kind = route.kind if "steps" in group else ""
        key = route.rule, axes, route.decays or not exempt, kind
        buckets.setdefault(key, []).append(each)
    result = []
    # Hidden matrices first, and of each rule what decays first.
    order = sorted(buckets, key=lambda bucket: (bucket[0] == ADAMW, not bucket[2]))
    for key in order:
        members, (rule, axes, decays, _) = buckets[key], key
        part = {**group, "params": [each[:2] for each in members], "rule": rule}
        part |= {"axes": None, "split_axis": None, "split_sizes": None}
        if axes is not None:
            part["axes"] = (axes.fan_in, axes.fan_out)
            part |= {"split_axis": axes.split_axis, "split_sizes": axes.split_sizes}
        if rule != ADAMW:
            part["lr_multiplier"] = 1.0
        if not decays:
            part["weight_decay"] = 0.0
        if isinstance(group["lr"], Tensor):
            # Schedulers write into tensors, so each group needs one of its own.
            part["lr"] = group["lr"].clone()
        result.append((part, [each.route for each in members]))
    return result


def states_axes(group: dict[str, Any]) -> bool:
    """Return whether a group says something about the axes of its parameters."""
    return group.get("axes") is not None or bool(group.get("split_sizes"))


def matrix_axes(p: Tensor, group: dict[str, Any]) -> MatrixAxes:
    """Return the axes of a parameter that its group reads as the matrix."""
    default = default_axes(p.shape)
    if not states_axes(group):
        return default
    axes = group.get("axes") or (default.fan_in, default.fan_out)
    if len(axes) != 2:
        raise InputError(f"axes are {axes}; give two, (fan_in, fan_out)")
    fan_in, fan_out = map(_one_or_several, axes)
    split_axis = group.get("split_axis")
    if split_axis is None:
        split_axis = fan_out if isinstance(fan_out, int) else fan_out[0]
    return MatrixAxes(fan_in, fan_out, split_axis, tuple(group.get("split_sizes") or ()))


def _one_or_several(axis: int | Sequence[int]) -> int | tuple[int, ...]:
    return axis if isinstance(axis, int) else tuple(axis)


def parts(p: Tensor, group: dict[str, Any]) -> list[MatrixView]:
    """Return the batches of matrices in a parameter, as its group reads it."""
    return matrix_views(p.shape, matrix_axes(p, group))


def check_gradient(p: Tensor, name: str) -> None:
    """Raise InputError if a gradient is of a kind that no rule takes."""
    if p.grad is not None and p.grad.layout != torch.strided:
        raise InputError(f"the gradient of {name} is sparse; use sparse=False in its Embedding")


def check_one_process() -> None:
    """Raise InputError where updates in the backward pass would precede the sum over ranks."""
    if is_one_of_several():
        raise InputError(
            "in_backward is for one process, and this is one of several; leave in_backward out"
        )


def is_one_of_several() -> bool:
    """Return whether this process has a process group with others."""
    distributed = torch.distributed
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def check_parameter(p: Tensor, name: str) -> None:
    """Raise InputError if a parameter cannot be optimized."""
    if is_lazy(p):
        raise InputError(
            f"{name} has no shape yet (a lazy module); "
            "run the model once before making the optimizer"
        )
    if is_fsdp1(p):
        raise InputError(f"{name} {FSDP1}")
    if p.is_complex():
        raise InputError(f"{name} is complex; optimize torch.view_as_real of it instead")
    if p.dtype not in DTYPES:
        raise InputError(
            f"{name} is of {p.dtype}; only {', '.join(map(str, DTYPES))} can be optimized"
        )
    shards(p, name)  # raises early for layouts that are not supported


def check_unchanged(p: Tensor, name: str, shape: tuple[int, ...]) -> None:
    """Raise InputError if a wrapper has changed a parameter since it was routed with that shape."""
    if is_fsdp1(p):
        raise InputError(f"{name} {FSDP1}")
    if tuple(p.shape) != shape:
        raise InputError(
            f"{name} had shape {shape} when the optimizer was made and has {tuple(p.shape)} now; "
            "make the optimizer after the model is changed or wrapped"
        )


def is_fsdp1(p: Tensor) -> bool:
    """Return whether FullyShardedDataParallel has flattened a parameter; it marks those it has."""
    return getattr(p, "_fsdp_flattened", False)
