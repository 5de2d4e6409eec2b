"""Use Celo2 in the Trainer of Transformers by a factory that gets the model.

Run: python examples/transformers_trainer.py [folder].
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from celo2.torch import Celo2


def celo2_of_model() -> type[Celo2]:
    """Return what Trainer calls as `celo2_of_model()(model, **kwargs)` (Transformers 5.2 or newer).

    A function is called so because it is not an Optimizer class. The class itself would get the
    parameters in two groups without names.
    """
    return Celo2


def small_trainer(folder: str) -> Trainer:
    """Return a Trainer of a tiny GPT-2 that memorizes 32 sequences of random tokens."""
    set_seed(0)
    config = GPT2Config(
        vocab_size=64,
        n_positions=32,
        n_embd=64,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    tokens = torch.randint(64, (32, 32))
    arguments = TrainingArguments(
        folder,
        max_steps=40,
        per_device_train_batch_size=16,
        lr_scheduler_type="cosine",
        warmup_steps=4,
        logging_steps=1,
        save_steps=20,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    # Trainer takes all hyperparameters from here and ignores those of its arguments.
    factory: tuple[Any, dict[str, Any]] = (celo2_of_model, {"lr": 4e-3})
    dataset: Any = [{"input_ids": sequence, "labels": sequence} for sequence in tokens]
    return Trainer(
        GPT2LMHeadModel(config), arguments, train_dataset=dataset, optimizer_cls_and_kwargs=factory
    )


def main() -> None:
    """Train, and print the routing and the losses."""
    trainer = small_trainer(sys.argv[1] if len(sys.argv) > 1 else "runs/transformers")
    trainer.train()
    print(trainer.optimizer.optimizer.routing())  # type: ignore[union-attr]  # Accelerate wraps it
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"loss {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last")


if __name__ == "__main__":
    main()
