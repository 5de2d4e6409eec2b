"""Pass a LightningModule itself to Celo2. Run: python examples/lightning_module.py [folder]."""

from __future__ import annotations

import sys
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from celo2.torch import Celo2


class Classifier(lightning.LightningModule):
    """A small convolutional net that memorizes the classes of images of noise."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()
        )
        self.hidden, self.out = nn.Linear(16 * 16, 64), nn.Linear(64, 4)
        self.losses: list[float] = []

    def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
        """Return the loss of a batch; Lightning calls this in the closure it passes to `step`."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self.out(self.hidden(self.stem(images)).relu()), labels)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Pass the module, not `self.parameters()`: its layers decide the routing."""
        optimizer = Celo2(self, lr=2e-3)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


def trained(folder: str, checkpoint: str | None = None) -> Classifier:
    """Return the classifier after ten epochs, from the start or resumed from a checkpoint.

    `folder` gets a checkpoint per epoch.
    """
    lightning.seed_everything(0, verbose=False)
    classifier, images, labels = Classifier(), torch.randn(64, 3, 8, 8), torch.randint(4, (64,))
    quiet: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=10,
        callbacks=[ModelCheckpoint(folder, save_top_k=-1)],
        **quiet,
    )
    trainer.fit(
        classifier, DataLoader(TensorDataset(images, labels), batch_size=32), ckpt_path=checkpoint
    )
    return classifier


def main() -> None:
    """Train, and print the routing and the losses."""
    classifier = trained(sys.argv[1] if len(sys.argv) > 1 else "runs/lightning")
    print(classifier.optimizers().routing())  # type: ignore[union-attr]  # typed as an Optimizer
    losses = classifier.losses
    print(f"loss {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last")


if __name__ == "__main__":
    main()
