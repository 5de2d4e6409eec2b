"""Celo2 for PyTorch: `Celo2` in the place of `torch.optim.AdamW`. Needs no JAX."""

from celo2.torch.optimizer import Celo2
from celo2.torch.reference import Celo2Reference

__all__ = ["Celo2", "Celo2Reference"]
