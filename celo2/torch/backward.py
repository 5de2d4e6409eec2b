"""Steps in the backward pass: a parameter moves as soon as its gradient is there, so that there is never a second one."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from celo2.torch.optimizer import Celo2


def move_in_backward(optimizer: Celo2, number: int) -> None:
    """Hook the parameters of a group; hooks do not keep the optimizer alive."""
    own = weakref.ref(optimizer)

    def moved(p: Tensor) -> None:
        optimizer = own()
        if optimizer is not None:
            optimizer._step_one(p, optimizer.param_groups[number])

    for p in optimizer.param_groups[number]["params"]:
        if p.requires_grad:
            p.register_post_accumulate_grad_hook(moved)
