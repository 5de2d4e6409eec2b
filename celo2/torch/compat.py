"""Names of PyTorch that are not public, in one place, each with the reason why it is needed."""

from __future__ import annotations

from torch import Tensor

# Raised where a function was compiled for more kinds of arguments than PyTorch allows: the eager
# kernel takes over.
from torch._dynamo.exc import FailOnRecompileLimitHit as RecompileLimitError

# Applies a function to the tensors inside nested tuples; PyTorch has no public counterpart.
from torch.utils._pytree import tree_map_only

__all__ = ["RecompileLimitError", "has_cpp_compiler", "mark_dynamic", "tree_map_only"]


def has_cpp_compiler() -> bool:
    """Return whether inductor finds the C++ compiler that it needs on a CPU."""
    # Imported here: inductor takes a second, and only compiled optimizers need it.
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


def mark_dynamic(x: Tensor) -> Tensor:
    """Let a kernel that is compiled for x serve other sizes, each independent of all others.

    By default sizes that are equal while compiling are taken to be equal later, so the kernel of a
    square matrix would be recompiled for the next matrix. This is what
    `torch._dynamo.maybe_mark_dynamic` does, at a hundredth of its time.
    """
    x._dynamo_weak_dynamic_indices = set(range(x.ndim))  # type: ignore[attr-defined]
    return x
