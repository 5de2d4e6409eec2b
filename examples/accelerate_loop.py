"""Train with Accelerate, one step per two batches.

Run: python examples/accelerate_loop.py [folder].
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from celo2.torch import Celo2


def tagger() -> nn.Module:
    """Return a small transformer that assigns each token to one of eight classes."""
    block = nn.TransformerEncoderLayer(
        32, nhead=2, dim_feedforward=64, dropout=0.0, batch_first=True
    )
    return nn.Sequential(
        OrderedDict(token_embedding=nn.Embedding(64, 32), block=block, head=nn.Linear(32, 8))
    )


def trained(folder: Path, from_epoch: int = 0) -> tuple[Celo2, list[float]]:
    """Return the optimizer after eight epochs and the loss of each batch.

    `folder` gets a checkpoint per epoch; training resumes from that of `from_epoch`.
    """
    torch.manual_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
    model, tokens, kinds = tagger(), torch.randint(64, (64, 16)), torch.randint(8, (64, 16))
    optimizer = Celo2(model, lr=4e-3)  # before `prepare`, which may shard the model
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=16)
    loader = DataLoader(TensorDataset(tokens, kinds), batch_size=16)
    model, prepared, loader, cosine = accelerator.prepare(model, optimizer, loader, cosine)
    if from_epoch:
        accelerator.load_state(str(folder / str(from_epoch)))
    losses = []
    for epoch in range(from_epoch, 8):
        for token_batch, kind_batch in loader:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(
                    model(token_batch).flatten(0, 1), kind_batch.flatten()
                )
                accelerator.backward(loss)
                prepared.step()  # Accelerate skips every other call of these three
                cosine.step()
                prepared.zero_grad()
            losses.append(loss.item())
        accelerator.save_state(str(folder / str(epoch + 1)))
    return optimizer, losses


def main() -> None:
    """Train, and print the routing and the losses."""
    optimizer, losses = trained(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/accelerate"))
    print(optimizer.routing())
    print(f"loss {losses[0]:.3f} at the first batch, {losses[-1]:.3f} at the last")


if __name__ == "__main__":
    main()
