"""Use Celo2 in torchtitan by a subclass of OptimizersContainer.

Run: python examples/torchtitan_container.py.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn
from torchtitan.components.checkpointer.utils import canonical_fqn
from torchtitan.components.optimizer import LRSchedulersContainer, OptimizersContainer

from celo2.torch import Celo2


class Celo2Optimizers(OptimizersContainer[Celo2]):
    """Celo2 on the model itself; pass its `Config()` as `optimizer` of a Trainer.Config."""

    @dataclass(kw_only=True, slots=True)
    class Config(OptimizersContainer.Config):
        """Hyperparameters; none of the base class's fields is used."""

        lr: float = 1e-3
        weight_decay: float = 0.0

    def __init__(self, config: Config, *, model_parts: list[nn.Module]) -> None:
        (model,) = model_parts  # no pipeline stages, whose last layers are no output heads
        self.model_parts = model_parts
        self.optimizers = [Celo2(model, lr=config.lr, weight_decay=config.weight_decay)]
        for group in self.optimizers[0].param_groups:  # checkpoint keys have no wrappers
            group["param_names"] = [canonical_fqn(name) for name in group["param_names"]]
        self._post_init(list(model.parameters()))


def trained(model: nn.Module, steps: int = 20) -> tuple[OptimizersContainer, list[float]]:
    """Return the container and the losses, built and called as by torchtitan's Trainer."""
    optimizers = Celo2Optimizers.Config(lr=4e-3).build(model_parts=[model])
    schedulers = LRSchedulersContainer.Config(warmup_steps=2).build(
        optimizers=optimizers, training_steps=steps
    )
    tokens, losses = torch.randint(64, (8, 33), generator=torch.Generator().manual_seed(0)), []
    for _ in range(steps):
        optimizers.zero_grad()
        loss = nn.functional.cross_entropy(
            model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()
        )
        loss.backward()
        optimizers.step()
        schedulers.step()
        losses.append(loss.item())
    return optimizers, losses


def main() -> None:
    """Train a model with names like torchtitan's, whose own need Triton; print the routing."""
    layers = {
        "tok_embeddings": nn.Embedding(64, 32),
        "feed_forward": nn.Linear(32, 32),
        "norm": nn.RMSNorm(32),
    }
    optimizers, losses = trained(
        nn.Sequential(OrderedDict(layers, lm_head=nn.Linear(32, 64, bias=False)))
    )
    print(optimizers.optimizers[0].routing())
    print(f"loss {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last")


if __name__ == "__main__":
    main()
