"""A small model of every kind of parameter, and its training, for the tests of the optimizer."""

import torch
from torch import nn


def small_model(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Embedding(11, 8),
        nn.Flatten(),
        nn.Linear(24, 16),
        nn.LayerNorm(16),
        nn.ReLU(),
        nn.Linear(16, 12),
        nn.ReLU(),
        nn.Linear(12, 4),
    ).to(dtype)


def backward(model, step):
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(11, (32, 3), generator=generator)
    loss = nn.functional.cross_entropy(model(tokens).float(), tokens[:, 0] % 4)
    loss.backward()
    return loss


def train(model, optimizer, steps, first=0):
    losses = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        losses.append(float(backward(model, step).detach()))
        optimizer.step()
    return losses


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
