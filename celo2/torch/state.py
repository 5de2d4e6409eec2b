"""The state of a parameter: fresh, checked when it is loaded, kept in the dtypes of the file."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from celo2.errors import InputError
from celo2.parameters.routing import ADAMW
from celo2.parameters.state import ParameterState, moment_shapes
from celo2.rule import Spec, average_count
from celo2.theta import Theta
from celo2.torch import adamw, distributed
from celo2.torch.param_groups import parts


def fresh_state(spec: Spec, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
    """Return zeros for all that the optimizer keeps of a parameter.

    They are ordinary tensors also under `torch.inference_mode`, since later steps write them.
    """
    with torch.inference_mode(False), torch.no_grad():
        state = {
            "skipped": torch.zeros((), dtype=torch.int32, device=p.device),
            "step": torch.zeros((), dtype=torch.float32, device=p.device),
        }
        if group["rule"] == ADAMW:
            return state | adamw.init(p)
        per_entry = p.dtype if p.dtype == torch.float64 else group["state_dtype"]
        per_side = {"dtype": torch.promote_types(per_entry, torch.float32), "device": p.device}
        rows, columns = _sides(spec, p, group)
        statistics = ParameterState(
            averages=distributed.zeros(p, per_entry, average_count(spec)),
            row_moments=torch.zeros(rows, **per_side),
            column_moments=torch.zeros(columns, **per_side),
        )
        return state | statistics._asdict()


def check_theta(loaded: dict[str, Any], theta: Theta) -> None:
    """Raise InputError if a state dict is of another optimizer, or was made by another theta."""
    for group in loaded["param_groups"]:
        if "theta" not in group:
            raise InputError(
                "this state is of another optimizer than Celo2; "
                "start from fresh accumulators instead of loading it"
            )
        if group["theta"].rpartition("@")[2] != theta.identity.rpartition("@")[2]:
            raise InputError(
                f"this state was made by theta {group['theta']}, "
                f"the optimizer has {theta.identity}; load that theta"
            )


def check_shapes(optimizer: Optimizer, loaded: dict[str, Any], spec: Spec) -> None:
    """Raise InputError, naming the parameter, if a state dict does not fit the parameters."""
    for own, saved in zip(optimizer.param_groups, loaded["param_groups"], strict=False):
        members = zip(own["param_names"], own["params"], saved["params"], strict=False)
        for name, p, saved_id in members:
            state = loaded["state"].get(saved_id)
            if not state:
                continue  # frozen when it was saved
            for key, shape in _shapes(spec, p, saved).items():
                found = tuple(state[key].shape) if key in state else "nothing"
                if found != shape:
                    raise InputError(
                        f"the state {key!r} of {name} should have shape {shape} and has {found}; "
                        "load the state of the same model with the same groups"
                    )


def _shapes(spec: Spec, p: Tensor, group: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    shape = tuple(p.shape)
    if group["rule"] == ADAMW:
        return {"exp_avg": shape, "exp_avg_sq": shape}
    rows, columns = _sides(spec, p, group)
    averages = average_count(spec), *shape
    return ParameterState(averages, tuple(rows), tuple(columns))._asdict()


def _sides(spec: Spec, p: Tensor, group: dict[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    return moment_shapes(spec, parts(p, group), torch.empty(p.shape, device="meta"), torch)


def restore_state_dtypes(optimizer: Optimizer, loaded: dict[str, Any]) -> None:
    """Put the saved state in the place of the base class's cast to the dtype of its parameter.

    That cast would round the float32 accumulators of bfloat16 parameters.
    """
    saved_ids = itertools.chain.from_iterable(group["params"] for group in loaded["param_groups"])
    own = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
    for saved_id, p in zip(saved_ids, own, strict=True):
        for key, value in loaded["state"].get(saved_id, {}).items():
            if isinstance(value, Tensor):
                optimizer.state[p][key] = value.detach().clone().to(p.device)
