"""Routing of PyTorch parameters by the types of their modules, else by names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from celo2.parameters.routing import ADAMW, CELO2, EMBEDDING, HEAD, Route, heads_among
from celo2.parameters.views import MatrixAxes
from celo2.torch.tensor_routing import route_tensors

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
GATES = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}
"""Gates of recurrent modules, whose matrices are stacked along the output axis."""
HEADLESS = (
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)


def route_module(module: nn.Module, ends_model: bool) -> list[tuple[str, Tensor, Route]]:
    """Return (name, parameter, route) for each parameter of a module, a shared one once.

    Args:
        module: the model or a part of it.
        ends_model: whether the model ends with this module; its last layer is then the output
            head if nothing says which it is.
    """
    embedded = {
        id(m.weight): name for name, m in module.named_modules() if isinstance(m, EMBEDDINGS)
    }
    heads = _heads(module, ends_model)
    named = list(module.named_parameters())
    result = []
    for (name, p), fallback in zip(named, route_tensors(named), strict=True):
        result.append((name, p, _route(name, p, module, embedded, heads, fallback)))
    return result


def _route(
    name: str,
    parameter: Tensor,
    module: nn.Module,
    embedded: dict[int, str],
    heads: dict[int, str],
    fallback: Route,
) -> Route:
    shape = tuple(parameter.shape)
    owner, leaf = _owner(module, name)
    kind = type(owner).__name__
    if isinstance(owner, NORMS):
        return Route(name, shape, ADAMW, f"norm ({kind})", decays=False)
    if len(shape) < 2:
        why = "bias" if "bias" in leaf else "vector" if shape else "scalar"
        return Route(name, shape, ADAMW, why, decays=False)
    if id(parameter) in embedded:
        tied = not isinstance(owner, EMBEDDINGS) or id(owner) in heads
        why = f"tied to the embedding {embedded[id(parameter)]}" if tied else f"embedding ({kind})"
        return Route(name, shape, ADAMW, why, adamw_kind=EMBEDDING)
    if id(owner) in heads and leaf == "weight":
        return Route(name, shape, ADAMW, f"output head ({kind}{heads[id(owner)]})", adamw_kind=HEAD)
    return _route_hidden(name, shape, owner, leaf) or fallback


def _route_hidden(name: str, shape: tuple[int, ...], owner: nn.Module, leaf: str) -> Route | None:
    """Return the route of a hidden parameter of a known kind of module."""
    kind = type(owner).__name__

    def matrices(why: str, **axes: int | tuple[int, ...]) -> Route:
        read = MatrixAxes(**axes) if axes else None  # type: ignore[arg-type]
        return Route(name, shape, CELO2, why, read, adamw_kind=HEAD)

    if isinstance(owner, (*CONVS, *TRANSPOSED_CONVS)) and leaf == "weight":
        if 1 < owner.groups == owner.in_channels:
            return Route(name, shape, ADAMW, f"depthwise convolution ({kind}): no matrix in it")
        return _route_conv(matrices, owner)
    if isinstance(owner, nn.MultiheadAttention) and leaf == "in_proj_weight":
        return matrices("fused QKV, three matrices", **_stacked(shape[0], 3))
    if type(owner) in GATES and leaf.startswith(("weight_ih", "weight_hh")):
        gates = GATES[type(owner)]
        return matrices(f"{gates} gates ({kind})", **_stacked(shape[0], gates))
    if kind == "Conv1D" and hasattr(
        owner, "nf"
    ):  # GPT-2 of Transformers stores linear layers as (in, out)
        return matrices("hidden matrix, stored (in, out)", fan_in=0, fan_out=1, split_axis=1)
    if isinstance(owner, nn.Bilinear) and leaf == "weight":
        return matrices("bilinear map, one matrix", fan_in=(1, 2), fan_out=0, split_axis=0)
    if isinstance(owner, nn.Linear) and leaf == "weight":
        return matrices(f"hidden matrix ({kind})")
    return None


def _stacked(length: int, count: int) -> dict[str, int | tuple[int, ...]]:
    """Return the axes of `count` equal matrices (out, in), one below the other."""
    return {"fan_in": 1, "fan_out": 0, "split_axis": 0, "split_sizes": (length // count,) * count}


def _route_conv(matrices: Callable[..., Route], conv: nn.modules.conv._ConvNd) -> Route:
    """Read a kernel as one matrix (taps * in, out), or as one for each group of channels."""
    kind = type(conv).__name__
    taps = tuple(range(2, 2 + len(conv.kernel_size)))
    if isinstance(conv, TRANSPOSED_CONVS):  # stored (in, out / groups, taps...)
        axes = {"fan_in": (0, *taps), "fan_out": 1}
        length = conv.in_channels
    else:
        axes = {"fan_in": (1, *taps), "fan_out": 0}
        length = conv.out_channels
    if conv.groups == 1:
        return matrices(f"convolution ({kind}), one matrix", **axes, split_axis=0)
    sizes = (length // conv.groups,) * conv.groups
    why = f"convolution ({kind}), {conv.groups} groups"
    return matrices(why, **axes, split_axis=0, split_sizes=sizes)


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that uses a parameter and the parameter's name in it.

    Both forms of weight norm and spectral norm are looked through: what they train in the place of
    a weight is routed as that weight, their magnitudes as gains.
    """
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if isinstance(owner, ParametrizationList):
        outer, _, parametrized = f".{path}".rpartition(".parametrizations.")
        return module.get_submodule(
            outer.removeprefix(".")
        ), leaf if leaf == "original0" else parametrized
    for suffix, companion in (
        ("_v", "_g"),
        ("_orig", "_u"),
    ):  # of torch.nn.utils.weight_norm, spectral_norm
        stem = leaf.removesuffix(suffix)
        if stem != leaf and hasattr(owner, stem + companion):
            return owner, stem
    return owner, leaf


def _heads(module: nn.Module, ends_model: bool) -> dict[int, str]:
    """Return {id of an output layer: what to add to the reason}.

    The model's own methods decide, then names, else it is the last layer.
    """
    methods = [
        getattr(module, name)
        for name in ("get_output_embeddings", "get_classifier")
        if hasattr(module, name)
    ]
    for method in methods:
        said = method()
        outputs = said if isinstance(said, (tuple, list)) else [said]
        last_layers = [list(_layers(m))[-1:] for m in outputs if isinstance(m, nn.Module)]
        if any(last_layers):
            return {id(layer): "" for layers in last_layers for layer in layers}
    layers = {
        f"{name}.weight": m
        for name, m in module.named_modules()
        if isinstance(m, (nn.Linear, *CONVS))
    }
    named = {id(layers[name]): ", by its name" for name in heads_among(layers)}
    # A model that has such a method and names no head has none.
    if named or methods or not ends_model or isinstance(module, HEADLESS):
        return named
    return {
        id(m): ", the last layer" for m in list(_layers(module))[-1:] if isinstance(m, nn.Linear)
    }


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that hold a matrix themselves, in the order of their registration."""
    for each in module.modules():
        holds = isinstance(each, (nn.Linear, *CONVS)) or any(
            p.ndim > 1 for p in each.parameters(recurse=False)
        )
        if holds and not isinstance(each, (*NORMS, ParametrizationList)):
            yield each
