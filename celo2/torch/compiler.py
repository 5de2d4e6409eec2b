"""Whether inductor can compile here (on a CPU it needs a C++ compiler, which not every machine has), and for what shapes."""

from __future__ import annotations

import contextlib
import functools

import torch
from torch.fx.experimental import _config as shapes

from celo2.errors import InputError


@functools.cache
def _cpp_compiler() -> str | None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return get_cpp_compiler()
    except InvalidCxxCompiler:
        return None


def has_compiler(device: torch.device) -> bool:
    """Whether kernels for `device` can be compiled."""
    return device.type != "cpu" or _cpp_compiler() is not None


def check_compiler(device: torch.device) -> None:
    """Raises InputError if what was asked for, to compile, is not possible on this machine."""
    if not has_compiler(device):
        raise InputError("compile=True needs a C++ compiler, and none was found; install g++, set CXX, or leave compile out")


def for_any_shape() -> contextlib.AbstractContextManager[None]:
    """What is compiled inside serves all shapes; else a square matrix would be compiled for as one, and the next one anew."""
    return shapes.patch(use_duck_shape=False)  # type: ignore[attr-defined]
