"""State dicts: whether one fits the optimizer, and its accumulators in the dtypes they were saved in."""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from celo2.errors import InputError
from celo2.theta import Theta


def check_theta(loaded: dict[str, Any], theta: Theta) -> None:
    """Raises InputError if the state is of another optimizer, or was made by another theta."""
    for group in loaded["param_groups"]:
        if "theta" not in group:
            raise InputError(
                "this state is of another optimizer than Celo2; start from fresh accumulators instead of loading it"
            )
        if group["theta"].rpartition("@")[2] != theta.identity.rpartition("@")[2]:
            raise InputError(
                f"this state was made by theta {group['theta']}, the optimizer has {theta.identity}; load that theta"
            )


def keep_dtypes(optimizer: Optimizer, loaded: dict[str, Any]) -> None:
    """Put the saved state in the place of the base class's cast to the dtype of its parameter.

    That cast would round float32 accumulators of bf16 weights.
    """
    saved_ids = itertools.chain.from_iterable(group["params"] for group in loaded["param_groups"])
    own = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
    for saved_id, p in zip(saved_ids, own, strict=True):
        for key, value in loaded["state"].get(saved_id, {}).items():
            if isinstance(value, Tensor):
                optimizer.state[p][key] = value.detach().clone().to(p.device)
