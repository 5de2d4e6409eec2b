"""The learning rates of a run of `total_steps`, which the optimizer sets itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from celo2.errors import InputError
from celo2.parameters.routing import HIDDEN
from celo2.parameters.views import MatrixView
from celo2.policy import Plan, check_total_steps, matrix_size, matrix_width, plan
from celo2.theta import Theta
from celo2.torch import distributed
from celo2.torch.param_groups import parts

ONE_OF_TWO = (
    "give either total_steps=, the number of optimizer steps of the run, and nothing needs tuning, "
    "or lr=, with a schedule of your own"
)
OWN_SCHEDULE = "to own the schedule, give lr= instead of total_steps="
ADAMW_LR_MULTIPLIER = 20.0
"""Learning rate of the AdamW groups over `lr`, as in the paper."""

Group = dict[str, Any]


class Schedule:
    """Writes the learning rates of theta's policy into the groups of an optimizer.

    A group has "lr", the base learning rate of the latest step (of the first before it), times
    "lr_scale" if it states one; "lr_multiplier", that of its kind of parameter over hidden
    matrices of usual width (of these, the policy's factor for a wide model, 1 before the first
    step); "steps", the steps taken; and "weight_factor", the policy's factor for the weights before
    the first step (1 until then). In a checkpoint, the last two are read.

    Raises:
        InputError: `total_steps` is not a whole number above 0, or theta has no policy.
    """

    def __init__(self, theta: Theta, total_steps: int) -> None:
        self.total_steps = check_total_steps(total_steps)
        self.policy = theta.required_policy()
        multipliers = self.policy.multipliers(np, self.total_steps)
        self.multipliers = {kind: float(value) for kind, value in multipliers.items()}
        self._steps, self._weight_factor = 0, 1.0
        self._warned = False
        self._updated: set[int] = set()

    def plan(self, groups: Sequence[Group]) -> Plan:
        """Return the learning rates of the run, and the weight decay of what decays most."""
        factor = self._weight_factor if self._steps else self._factor_now(groups)
        width_factor = self._width_factor(groups)
        of_policy = plan(
            self.policy, self.total_steps, weight_factor=factor, width_factor=width_factor
        )
        most = max(groups, key=lambda group: group["weight_decay"])
        return of_policy._replace(weight_decay=most["weight_decay"], cautious=most["cautious"])

    def defaults(self) -> Group:
        """Return the hyperparameters of every group."""
        return {
            "lr": self._base(),
            "steps": self._steps,
            "weight_factor": self._weight_factor,
            "weight_decay": self.policy.weight_decay,
            "cautious": self.policy.cautious,
        }

    def prepare(self, part: Group, kind: str, stated: Group) -> None:
        """Complete a group of one kind of parameter before it is added."""
        part["kind"] = kind
        if "lr_multiplier" not in stated:
            part["lr_multiplier"] = self.multipliers[kind]
        self._write(part)

    def begin_step(self, groups: Sequence[Group]) -> None:
        """Set the learning rates of the next step.

        Raises:
            InputError: someone else has set a learning rate, or the step is being captured.
        """
        if all(group["lr"] == 0 for group in groups):
            # Loaders of distributed checkpoints make the state by a step at a learning rate of 0.
            return
        for group in groups:
            self._check_own(group)
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise InputError(
                "a CUDA graph would repeat the learning rate of one step; "
                f"{OWN_SCHEDULE} and fill a tensor between replays"
            )
        if self._steps == self.total_steps and not self._warned:
            self._warned = True
            warnings.warn(
                f"training goes on after its {self.total_steps} total_steps, at the learning rate "
                "of the last one; give the optimizer the true number at the next resume",
                stacklevel=4,
            )
        if self._steps == 0:
            self._weight_factor = self._factor_now(groups)
            self._fit_width(groups)
        self._steps += 1
        for group in groups:
            self._write(group)

    def begin_parameter(self, p: Tensor, groups: Sequence[Group]) -> None:
        """Begin a step with the first parameter of a backward pass, where each is stepped alone."""
        if not self._updated or id(p) in self._updated:
            self._updated.clear()
            self.begin_step(groups)
        self._updated.add(id(p))

    def end_backward(self) -> None:
        """Let the next parameter begin a step."""
        self._updated.clear()

    def resume(self, groups: Sequence[Group], multipliers: Sequence[float]) -> None:
        """Go on from the steps of loaded groups, whose run may have had another length.

        `multipliers` are those of the groups before they were loaded.
        """
        self._steps = int(groups[0]["steps"])
        self._weight_factor = float(groups[0]["weight_factor"])
        for group, multiplier in zip(groups, multipliers, strict=True):
            group["lr_multiplier"] = multiplier
            # States from before weight decay could be cautious go on as they were.
            group.setdefault("cautious", 0.0)
            self._write(group)
        self._fit_width(groups)

    def _factor_now(self, groups: Sequence[Group]) -> float:
        """Return the policy's factor for the weights as they are."""
        sizes = np.array(hidden_sizes(groups))
        return float(self.policy.weight_factor(np, sizes)) if len(sizes) else 1.0

    def _fit_width(self, groups: Sequence[Group]) -> None:
        """Write the factor for the model's width into groups that state no multiplier."""
        before, now = self.multipliers[HIDDEN], self._width_factor(groups)
        for group in groups:
            if group["kind"] == HIDDEN and group["lr_multiplier"] == before:
                group["lr_multiplier"] = now
        self.multipliers[HIDDEN] = now

    def _width_factor(self, groups: Sequence[Group]) -> float:
        """Return the policy's factor for the widths of the matrices that the rule updates."""
        widths = np.array([matrix_width(view) for view, _, _ in hidden_matrices(groups)])
        return float(self.policy.width_factor(np, widths)) if len(widths) else 1.0

    def _base(self) -> float:
        """Return the learning rate of hidden matrices at the latest step."""
        factor = self.policy.factor(np, max(0, self._steps - 1), self.total_steps)
        return float(self.policy.peak(np, HIDDEN, self.total_steps) * factor * self._weight_factor)

    def _write(self, group: Group) -> None:
        group["lr"] = self._base() * group.get("lr_scale", 1.0)
        group["steps"], group["weight_factor"] = self._steps, self._weight_factor

    def _check_own(self, group: Group) -> None:
        """Raise InputError if a group's learning rate is not the one that was written."""
        found, own = float(group["lr"]), self._base() * group.get("lr_scale", 1.0)
        # A constant scheduler, which some trainers insist on, writes what it found at first.
        if found != own and found != group.get("initial_lr"):
            raise InputError(
                f"lr of a group is {found:g}, but total_steps={self.total_steps} has set {own:g}: "
                f"leave out the learning-rate scheduler, or make it a constant one; {OWN_SCHEDULE}"
            )


def hidden_matrices(groups: Sequence[Group]) -> Iterator[tuple[MatrixView, str, Tensor]]:
    """Yield how each parameter that the rule updates is read, its name and the parameter."""
    for group in groups:
        for name, p in zip(group["param_names"], group["params"], strict=True):
            if group["kind"] == HIDDEN and p.ndim > 1 and p.numel():
                yield parts(p, group)[0], name, p


def hidden_sizes(groups: Sequence[Group]) -> list[float]:
    """Return the size of each matrix that the rule updates; see `matrix_size`.

    Every rank joins one all-reduce per sharded parameter, and the device is waited for.
    """
    sizes = []
    for view, name, p in hidden_matrices(groups):
        sizes.append(float(matrix_size(np, distributed.mean_square(p, name), view)))
    return sizes


def check_stated(group: Group, schedule: Schedule | None) -> None:
    """Raise InputError if a group states what the schedule decides."""
    for key in ("lr", "adamw_lr_multiplier"):
        if schedule is not None and key in group:
            raise InputError(
                f"{key} of a group is {group[key]}, but with total_steps= theta's policy sets it; "
                f"state lr_scale for a factor on the learning rate; {OWN_SCHEDULE}"
            )


def check_loaded(groups: Sequence[Group], schedule: Schedule | None) -> None:
    """Raise InputError if a state was saved with a schedule and is loaded without, or reversely."""
    if ("steps" in groups[0]) != (schedule is not None):
        saved, own = ("total_steps=", "lr=") if schedule is None else ("lr=", "total_steps=")
        raise InputError(
            f"this state was saved by an optimizer with {saved} and is loaded into one with {own}; "
            f"give {saved}"
        )


def choose(
    theta: Theta,
    lr: float | Tensor | None,
    total_steps: int | None,
    weight_decay: float | None,
    adamw_lr_multiplier: float | None,
) -> tuple[Schedule | None, Group]:
    """Return the schedule, None where the caller owns it, and the hyperparameters it implies.

    Raises:
        InputError: not exactly one of `lr` and `total_steps` is given, or `total_steps` with a
            multiplier.
    """
    if (lr is None) == (total_steps is None):
        raise InputError(ONE_OF_TWO)
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    if total_steps is None:
        own = {"lr": lr.clone() if isinstance(lr, Tensor) else lr, "weight_decay": 0.0}
        multiplier = ADAMW_LR_MULTIPLIER if adamw_lr_multiplier is None else adamw_lr_multiplier
        return None, own | {"adamw_lr_multiplier": multiplier} | decay
    schedule = Schedule(theta, total_steps)
    if adamw_lr_multiplier is not None:
        check_stated({"adamw_lr_multiplier": adamw_lr_multiplier}, schedule)
    return schedule, schedule.defaults() | decay
