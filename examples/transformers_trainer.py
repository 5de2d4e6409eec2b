"""Celo2 in Hugging Face's Trainer: a factory gets the model itself. Run: python examples/transformers_trainer.py [folder]."""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from celo2.torch import Celo2


def celo2_of_model() -> type[Celo2]:
    """What Trainer calls as `celo2_of_model()(model, **kwargs)`, since it is no Optimizer class (Transformers 5.2 or newer).

    An Optimizer class would get the parameters in two groups without names, and Celo2 could route by shapes alone.
    """
    return Celo2


def small_trainer(folder: str) -> Trainer:
    """Trainer of a tiny GPT-2 on 32 sequences of random tokens, which it has to learn by heart."""
    set_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=64, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
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
    # Trainer takes all hyper-parameters from here: learning_rate and weight_decay of its arguments are not passed on.
    factory: tuple[Any, dict[str, Any]] = (celo2_of_model, {"lr": 4e-3})
    dataset: Any = [{"input_ids": sequence, "labels": sequence} for sequence in tokens]
    return Trainer(GPT2LMHeadModel(config), arguments, train_dataset=dataset, optimizer_cls_and_kwargs=factory)


def main() -> None:
    """Train, and show who moved what."""
    trainer = small_trainer(sys.argv[1] if len(sys.argv) > 1 else "runs/transformers")
    trainer.train()
    print(trainer.optimizer.optimizer.routing())  # type: ignore[union-attr]  # Accelerate wraps the optimizer
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"loss {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last")


if __name__ == "__main__":
    main()
