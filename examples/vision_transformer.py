"""Train a small vision transformer on 8x8 digits, with a schedule of your own.

Run: python examples/vision_transformer.py [steps].
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from celo2.torch import Celo2


class VisionTransformer(nn.Module):
    """Patches of 2x2 pixels, two blocks of width 64, the mean of the tokens, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 64, kernel_size=2, stride=2)  # (n, 64, 4, 4)
        self.position = nn.Parameter(0.02 * torch.randn(16, 64))
        block = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 2)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, 10) of images (n, 1, 8, 8)."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.blocks(tokens).mean(1))


def main(steps: int) -> None:
    """Train on 1,500 digits, and print the routing and the accuracy on the other 297."""
    torch.manual_seed(0)
    found: Any = load_digits()
    images, labels = torch.tensor(found.images / 16).float()[:, None], torch.tensor(found.target)
    model = VisionTransformer()
    optimizer = Celo2(model, lr=2e-3, adamw_lr_multiplier=5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, cycle_momentum=False)
    print(optimizer.routing())
    for _ in range(steps):
        batch = torch.randint(1500, (64,))
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        found_rightly = model.eval()(images[1500:]).argmax(1) == labels[1500:]
    print(f"accuracy on held-out digits: {found_rightly.float().mean().item():.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
