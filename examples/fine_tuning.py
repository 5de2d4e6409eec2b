"""Fine-tune a pretrained network on new classes with few images: a smaller update for the body.

Run: python examples/fine_tuning.py [steps].
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from celo2.torch import Celo2


def digits(classes: range, per_class: int | None = None) -> tuple[Tensor, Tensor]:
    """Return images (n, 64) in [0, 1] and labels from 0 of some classes."""
    found: Any = load_digits()
    images, labels = torch.tensor(found.data / 16).float(), torch.tensor(found.target)
    chosen = [torch.nonzero(labels == c).flatten()[:per_class] for c in classes]
    index = torch.cat(chosen)
    return images[index], labels[index] - classes.start


def train(model: nn.Module, optimizer: Celo2, images: Tensor, labels: Tensor, steps: int) -> None:
    """Train on batches of 64; the optimizer follows its own schedule."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = torch.randint(len(images), (64,), generator=generator)
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of images whose class is found."""
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


def main(steps: int) -> None:
    """Pretrain on the digits 0 to 4, then tune on ten images of each of 5 to 9."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
    model = nn.Sequential(body, nn.Linear(128, 5))
    train(model, Celo2(model, total_steps=steps), *digits(range(5)), steps)
    print(f"pretrained: {accuracy(model, *digits(range(5))):.2f} on the digits 0 to 4")

    model[1] = head = nn.Linear(128, 5)
    groups = [
        {"params": body, "lr_scale": 0.1},  # updates of the body are a tenth
        {"params": head, "rule": "adamw"},  # a head by itself does not say that it is one
    ]
    optimizer = Celo2(groups, total_steps=steps)
    print(optimizer.routing())
    train(model, optimizer, *digits(range(5, 10), per_class=10), steps)
    print(f"tuned: {accuracy(model, *digits(range(5, 10))):.2f} on the digits 5 to 9")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
