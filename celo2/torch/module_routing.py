"""Routing of PyTorch parameters: what the types of their modules say, then what names and shapes say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from celo2.parameters.routing import ADAMW, CELO2, Route, by_names_and_shapes, heads_among
from celo2.parameters.views import MatrixAxes

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
GATES = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}
"""Recurrent modules keep the matrices of their gates stacked along the output axis."""
LONGEST_KERNEL = 32
"""A tensor of three axes with more taps than this is rather a stack of matrices, whose axes must be stated."""
HEADLESS = (
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)


def default_axes(shape: torch.Size) -> MatrixAxes:
    """The reading of a tensor that nothing else is known of: (out, in), or a kernel (out, in, taps...), each tap a matrix."""
    return MatrixAxes(fan_in=1, fan_out=0, split_axis=0) if len(shape) >= 2 else MatrixAxes()


def route_tensors(tensors: Sequence[tuple[str | None, Tensor]]) -> list[Route]:
    """The routes of tensors that came without their module."""
    routes = by_names_and_shapes([(name, (*t.shape[2:], *t.shape[:2])) for name, t in tensors])
    return [_as_convolution(route, t) for route, (_, t) in zip(routes, tensors, strict=True)]


def _as_convolution(route: Route, tensor: Tensor) -> Route:
    route = dataclasses.replace(route, shape=tuple(tensor.shape))
    if route.rule == ADAMW or tensor.ndim < 3:
        return route
    taps = max(tensor.shape[2:])
    if taps > LONGEST_KERNEL:
        why = f"an axis of {taps} taps looks like no convolution (out, in, taps...)"
        return dataclasses.replace(route, rule=ADAMW, why=why, doubtful=True)
    return dataclasses.replace(route, why="convolution, each tap a matrix")


def route_module(module: nn.Module, ends_model: bool) -> list[tuple[str, Tensor, Route]]:
    """(name, parameter, route) for each parameter of a module, a shared one once.

    `ends_model`: the model ends with this module, so its last layer is the output head if nothing says which it is.
    """
    embedded = {id(m.weight): name for name, m in module.named_modules() if isinstance(m, EMBEDDINGS)}
    named = list(module.named_parameters())
    heads = _heads(module, ends_model)
    fallback = route_tensors(named)
    return [
        (name, p, _route(name, p, module, embedded, heads, route)) for (name, p), route in zip(named, fallback, strict=True)
    ]


def _route(
    name: str, parameter: Tensor, module: nn.Module, embedded: dict[int, str], heads: dict[int, str], fallback: Route
) -> Route:
    shape = tuple(parameter.shape)
    owner, leaf = _owner(module, name)
    kind = type(owner).__name__

    def route(rule: str, why: str, **axes: int | tuple[int, ...]) -> Route:
        return Route(name, shape, rule, why, MatrixAxes(**axes) if axes else None)  # type: ignore[arg-type]

    if isinstance(owner, NORMS):
        return route(ADAMW, f"norm ({kind})")
    if len(shape) < 2:
        return route(ADAMW, "bias" if "bias" in leaf else "vector" if shape else "scalar")
    if id(parameter) in embedded:
        tied = not isinstance(owner, EMBEDDINGS) or id(owner) in heads
        return route(ADAMW, f"tied to the embedding {embedded[id(parameter)]}" if tied else f"embedding ({kind})")
    if id(owner) in heads and leaf == "weight":
        return route(ADAMW, f"output head ({kind}{heads[id(owner)]})")
    if isinstance(owner, (*CONVS, *TRANSPOSED_CONVS)) and leaf == "weight":
        return _route_conv(route, owner)
    if isinstance(owner, nn.MultiheadAttention) and leaf == "in_proj_weight":
        sizes = (shape[0] // 3,) * 3
        return route(CELO2, "fused QKV, three matrices", fan_in=1, fan_out=0, split_axis=0, split_sizes=sizes)
    if type(owner) in GATES and leaf.startswith(("weight_ih", "weight_hh")):
        gates = GATES[type(owner)]
        sizes = (shape[0] // gates,) * gates
        return route(CELO2, f"{gates} gates ({kind})", fan_in=1, fan_out=0, split_axis=0, split_sizes=sizes)
    if kind == "Conv1D" and hasattr(owner, "nf"):  # Transformers' GPT-2 keeps its linear layers as (in, out)
        return route(CELO2, "hidden matrix, stored (in, out)", fan_in=0, fan_out=1, split_axis=1)
    if isinstance(owner, nn.Linear) and leaf == "weight":
        return route(CELO2, f"hidden matrix ({kind})")
    return fallback


def _route_conv(route: Callable[..., Route], conv: nn.modules.conv._ConvNd) -> Route:
    kind = type(conv).__name__
    transposed = isinstance(conv, TRANSPOSED_CONVS)
    if conv.groups == 1 and not transposed:
        return route(CELO2, f"convolution ({kind}), each tap a matrix")
    if conv.groups > 1 and conv.groups == conv.in_channels:
        return route(ADAMW, f"depthwise convolution ({kind}): no matrix in it")
    axes = {"fan_in": 0, "fan_out": 1} if transposed else {"fan_in": 1, "fan_out": 0}
    length = conv.in_channels if transposed else conv.out_channels
    sizes = (length // conv.groups,) * conv.groups
    return route(CELO2, f"convolution ({kind}), {conv.groups} groups", **axes, split_axis=0, split_sizes=sizes)


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that uses a parameter, and the parameter's name in it; parametrisations (weight norm) are looked through."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if not isinstance(owner, ParametrizationList):
        return owner, leaf
    outer, _, parametrized = f".{path}".rpartition(".parametrizations.")
    return module.get_submodule(outer.removeprefix(".")), leaf if leaf == "original0" else parametrized


def _heads(module: nn.Module, ends_model: bool) -> dict[int, str]:
    """{id of an output layer: what to add to the reason}: as the model says, as names say, else the model's last layer."""
    methods = [getattr(module, name) for name in ("get_output_embeddings", "get_classifier") if hasattr(module, name)]
    for said in (method() for method in methods):
        outputs = [m for m in (said if isinstance(said, (tuple, list)) else [said]) if isinstance(m, nn.Module)]
        stated = {id(layer): "" for output in outputs for layer in list(_layers(output))[-1:]}
        if stated:
            return stated
    layers = {f"{name}.weight": m for name, m in module.named_modules() if isinstance(m, (nn.Linear, *CONVS))}
    named = {id(layers[name]): ", by its name" for name in heads_among(layers)}
    if named or methods or not ends_model or isinstance(module, HEADLESS):  # a model that was asked and named none has none
        return named
    return {id(m): ", the last layer" for m in list(_layers(module))[-1:] if isinstance(m, nn.Linear)}


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that hold a matrix themselves, in the order of their registration."""
    for each in module.modules():
        holds = isinstance(each, (nn.Linear, *CONVS)) or any(p.ndim > 1 for p in each.parameters(recurse=False))
        if holds and not isinstance(each, (*NORMS, ParametrizationList)):
            yield each
