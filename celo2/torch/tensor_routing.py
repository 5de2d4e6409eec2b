"""Routing of tensors that come without their module: what names, shapes and their order tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from celo2.parameters.routing import ADAMW, Route, by_names_and_shapes
from celo2.parameters.views import MatrixAxes

LONGEST_KERNEL = 15
"""A tensor with more taps along one axis is more likely a stack of matrices than a convolution."""
FUSED_QKV = 3
"""Rows over columns of a fused query, key and value projection, whose outputs no matrix reads."""


def default_axes(shape: torch.Size) -> MatrixAxes:
    """Return the axes of a tensor of which nothing else is known.

    It is (out, in), or a convolution kernel (out, in, taps...), read as one matrix.
    """
    if len(shape) < 2:
        return MatrixAxes()
    fan_in = tuple(range(1, len(shape)))
    return MatrixAxes(fan_in[0] if len(fan_in) == 1 else fan_in, fan_out=0, split_axis=0)


def route_tensors(tensors: Sequence[tuple[str | None, Tensor]]) -> list[Route]:
    """Return the routes of tensors by names and shapes; a name is None where there is none."""
    routes = by_names_and_shapes([(name, (*t.shape[2:], *t.shape[:2])) for name, t in tensors])
    return [_as_kernel(route, t) for route, (_, t) in zip(routes, tensors, strict=True)]


def _as_kernel(route: Route, tensor: Tensor) -> Route:
    route = dataclasses.replace(route, shape=tuple(tensor.shape))
    if route.rule == ADAMW or tensor.ndim < 3:
        return route
    taps = max(tensor.shape[2:])
    if taps <= LONGEST_KERNEL and "expert" not in route.name.lower():
        return dataclasses.replace(route, why="convolution, one matrix")
    why = f"an axis of {taps} taps looks like no convolution (out, in, taps...)"
    return dataclasses.replace(route, rule=ADAMW, why=why, doubtful=True)


def ends_by_order(tensors: Sequence[Tensor]) -> dict[int, str]:
    """Return {index: reason} for the unnamed tensors that look like embeddings or output head.

    `tensors` are all of a model, in its order. The rows of a hidden matrix (out, in) are inputs of
    another matrix, or are the same in every block. A vocabulary is neither: the first matrices
    with such rows are embeddings, and the last one is the output head.
    """
    matrices = [i for i, t in enumerate(tensors) if t.ndim > 1]
    flat = [i for i in matrices if tensors[i].ndim == 2]
    if len(matrices) < 2 or not flat:
        return {}
    last = flat[-1] if flat[-1] == matrices[-1] else None
    ends: dict[int, str] = {}
    for i in matrices:
        others = [j for j in flat if j not in (i, last)]
        if (
            i == last
            or i not in flat
            or not _is_vocabulary(i, tensors, others, _inputs(tensors, flat))
        ):
            break
        ends[i] = "embedding, by its place and shape"
    inner = [j for j in flat if j != last and j not in ends]
    if last is not None and _is_vocabulary(last, tensors, inner, _inputs(tensors, flat[1:])):
        ends[last] = "output head, by its place and shape"
    vocabularies = {tensors[i].shape for i in ends}
    for i in flat:
        if i not in ends and tensors[i].shape in vocabularies:
            ends[i] = "shape of an embedding or output head"
    return ends


def _inputs(tensors: Sequence[Tensor], indices: Sequence[int]) -> set[int]:
    return {tensors[i].shape[1] for i in indices}


def _is_vocabulary(
    i: int, tensors: Sequence[Tensor], others: Sequence[int], inputs: set[int]
) -> bool:
    """Return whether no matrix reads the rows of this one, and none of `others` has as many."""
    rows, columns = tensors[i].shape
    shared = any(tensors[j].shape[0] == rows for j in others)
    return not shared and rows not in inputs and rows != FUSED_QKV * columns
