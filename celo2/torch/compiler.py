"""Whether inductor can compile here: on a CPU it needs a C++ compiler, which not every machine has."""

from __future__ import annotations

import functools

import torch

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
