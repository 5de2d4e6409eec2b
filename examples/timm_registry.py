"""Register Celo2 with timm and use it by name. Run: python examples/timm_registry.py."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.optim._optim_factory import OptimInfo, create_optimizer_v2, default_registry
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

# By its dotted name, so that registering imports nothing. It takes no momentum option.
default_registry.register(
    OptimInfo(
        "celo2",
        "celo2.torch.Celo2",
        description="Learned optimizer (arXiv 2602.19142)",
        has_betas=True,
    )
)


def whole_model(model: nn.Module) -> list[dict[str, Any]]:
    """Return one group with the module itself; timm's own groups hold tensors without names."""
    return [{"params": model}]


def trained(steps: int = 30) -> tuple[torch.optim.Optimizer, list[float]]:
    """Fit a small vision transformer to images of noise; return the optimizer and the losses."""
    torch.manual_seed(0)
    size: dict[str, Any] = {
        "img_size": 16,
        "patch_size": 4,
        "embed_dim": 64,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 10,
    }
    model = timm.create_model("vit_tiny_patch16_224", **size)
    images, labels = torch.randn(64, 3, 16, 16), torch.randint(10, (64,))
    # Celo2 exempts norms and biases from weight decay itself, so timm's groups are not needed.
    optimizer = create_optimizer_v2(
        model, "celo2", lr=4e-3, weight_decay=0.01, param_group_fn=whole_model
    )
    # timm's schedulers set the base learning rate of every group; AdamW's factor of 20 is kept.
    cosine = CosineLRScheduler(optimizer, t_initial=steps, t_in_epochs=False)
    losses = []
    for step in range(steps):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cosine.step_update(step + 1)
        losses.append(loss.item())
    return optimizer, losses


def main() -> None:
    """Train, and print the routing and the losses."""
    optimizer, losses = trained()
    print(optimizer.routing())  # type: ignore[attr-defined]  # typed as an Optimizer
    print(f"loss {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last")


if __name__ == "__main__":
    main()
