"""Routing of a module's parameters: what the types of its modules say, then what names and shapes say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from celo2.routing import ADAMW, CELO2, Route, by_name_and_shape
from celo2.views import MatrixAxes

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.modules.batchnorm._NormBase)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
GATES = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}
"""Recurrent modules keep the matrices of their gates stacked along the output axis."""


def default_axes(shape: torch.Size) -> MatrixAxes:
    """The reading of a tensor that nothing else is known of: (out, in), or a kernel (out, in, taps...), each tap a matrix."""
    return MatrixAxes(fan_in=1, fan_out=0, split_axis=0) if len(shape) >= 2 else MatrixAxes()


def route_tensor(name: str | None, tensor: Tensor) -> Route:
    """The route of a tensor that came without its module."""
    route = by_name_and_shape(name, (*tensor.shape[2:], *tensor.shape[:2]) if tensor.ndim > 2 else tensor.shape)
    route = dataclasses.replace(route, shape=tuple(tensor.shape))
    taps = tensor[0, 0].numel() if tensor.ndim > 2 and tensor.numel() else 1
    if route.rule == CELO2 and taps > max(tensor.shape[:2]):
        why = f"{taps} taps for {tensor.shape[1]} inputs look like no convolution (out, in, taps...)"
        return dataclasses.replace(route, rule=ADAMW, why=why, doubtful=True)
    if route.rule == CELO2 and tensor.ndim > 2:
        return dataclasses.replace(route, why="convolution, each tap a matrix")
    return route


def route_module(module: nn.Module) -> Iterator[tuple[str, Tensor, Route]]:
    """(name, parameter, route) for each parameter of a module, a shared one once."""
    embedded = {id(m.weight): name for name, m in module.named_modules() if isinstance(m, EMBEDDINGS)}
    head = _head(module, embedded)
    for name, parameter in module.named_parameters():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        yield name, parameter, _route(name, leaf, parameter, owner, embedded, head)


def _route(
    name: str, leaf: str, parameter: Tensor, owner: nn.Module, embedded: dict[int, str], head: nn.Module | None
) -> Route:
    shape = tuple(parameter.shape)
    kind = type(owner).__name__

    def route(rule: str, why: str, **axes: int | tuple[int, ...]) -> Route:
        return Route(name, shape, rule, why, MatrixAxes(**axes) if axes else None)  # type: ignore[arg-type]

    if isinstance(owner, NORMS) or "norm" in kind.lower():
        return route(ADAMW, f"norm ({kind})")
    if len(shape) < 2:
        return route(ADAMW, "bias" if leaf.startswith("bias") or leaf.endswith("bias") else "vector" if shape else "scalar")
    if id(parameter) in embedded:
        shared = owner is head or not isinstance(owner, EMBEDDINGS)
        return route(ADAMW, f"tied to the embedding {embedded[id(parameter)]}" if shared else f"embedding ({kind})")
    if owner is head:
        return route(ADAMW, f"output head ({kind})")
    if isinstance(owner, CONVS):
        return _route_conv(route, owner)
    if isinstance(owner, TRANSPOSED_CONVS):
        sizes = (shape[0] // owner.groups,) * owner.groups
        return route(CELO2, f"transposed convolution ({kind})", fan_in=0, fan_out=1, split_axis=0, split_sizes=sizes)
    if isinstance(owner, nn.MultiheadAttention) and leaf == "in_proj_weight":
        sizes = (shape[0] // 3,) * 3
        return route(CELO2, "fused QKV, three matrices", fan_in=1, fan_out=0, split_axis=0, split_sizes=sizes)
    if type(owner) in GATES and leaf.startswith("weight"):
        gates = GATES[type(owner)]
        sizes = (shape[0] // gates,) * gates
        return route(CELO2, f"{gates} gates ({kind})", fan_in=1, fan_out=0, split_axis=0, split_sizes=sizes)
    if kind == "Conv1D" and hasattr(owner, "nf"):  # Transformers' GPT-2 keeps its linear layers as (in, out)
        return route(CELO2, "hidden matrix, stored (in, out)", fan_in=0, fan_out=1, split_axis=1)
    if isinstance(owner, nn.Linear):
        return route(CELO2, "hidden matrix (Linear)")
    return route_tensor(name, parameter)


def _route_conv(route: Callable[..., Route], conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Route:
    kind = type(conv).__name__
    if conv.groups == 1:
        return route(CELO2, f"convolution ({kind}), each tap a matrix")
    if conv.groups == conv.in_channels:
        return route(ADAMW, f"depthwise convolution ({kind}): no matrix in it")
    sizes = (conv.out_channels // conv.groups,) * conv.groups
    return route(CELO2, f"grouped convolution ({kind})", fan_in=1, fan_out=0, split_axis=0, split_sizes=sizes)


def _head(module: nn.Module, embedded: dict[int, str]) -> nn.Module | None:
    """The output layer: as the model says it (Transformers, timm), as its name says it, else the last Linear of several."""
    for method in ("get_output_embeddings", "get_classifier"):
        if callable(getattr(module, method, None)):
            head = getattr(module, method)()
            if isinstance(head, nn.Module) and not isinstance(head, nn.Identity):
                return head
    layers = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Linear)]
    named = [m for name, m in layers if "head" in by_name_and_shape(name, (2, 2)).why]
    if named:
        return named[-1]
    matrices = [p for p in module.parameters() if p.ndim > 1 and id(p) not in embedded]
    return layers[-1][1] if layers and len(matrices) > 1 else None
