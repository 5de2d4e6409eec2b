"""Train a GPT of GPT-2's size (124M) for a number of tokens by Celo2, Muon and AdamW, on a GPU.

    python -m benchmarks.gpt2 --device cuda

The network is the demo's, as wide and deep as GPT-2 small and with its vocabulary, head tied to the
embedding, on tokens of the text (BPE, learned on it). Each optimizer runs at each of its learning
rates, with one schedule for all, and Celo2 once by `total_steps=`, with nothing tuned. A call stops
after `minutes` and saves, as it does every two minutes; the same command goes on where it stopped,
on a CPU bit for bit. Results are one JSON line per run, with the loss of each step, the held-out
loss, the time of a step and the memory. Small sizes run on a CPU.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from benchmarks.provenance import provenance
from celo2.data.text import from_file, standard_library
from celo2.data.tokens import Tokens, tokenized
from celo2.evaluate.torch_demo.gpt import GPT, GPTConfig
from celo2.evaluate.torch_demo.optimizers import divided, schedule
from celo2.files import append_line, read_lines
from celo2.torch import Celo2

BETAS, WEIGHT_DECAY = (0.9, 0.95), 0.1
HELD_OUT_BATCHES = 8
SAVE_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a GPT by several optimizers, and resume."""

    device: str = "cuda"
    optimizers: tuple[str, ...] = ("celo2-total-steps", "celo2", "muon", "adamw")
    """Some of these four."""
    learning_rates: tuple[float, ...] = (3e-4, 6e-4, 1.2e-3)
    """Tried for each optimizer, roughly the RMS of its updates; celo2-total-steps has none."""
    tokens: int = 20_000_000
    """To train on, per run."""
    batch: int = 16
    """Sequences."""
    context: int = 1024
    """Tokens of a sequence."""
    width: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 50257
    text: Path | None = None
    """Text to train on; by default the source of Python's standard library, which is read several
    times over."""
    seed: int = 0
    minutes: float = 9.0
    """After which a call saves and stops."""
    out: Path = Path("runs/gpt2")
    """Folder of runs.jsonl, and of the checkpoint of a run that is not done."""

    @property
    def steps(self) -> int:
        """Number of steps of a run."""
        return self.tokens // (self.batch * self.context)


def _adamw(model: nn.Module, lr: float, steps: int) -> list[Optimizer]:
    return [AdamW(model.parameters(), lr, betas=BETAS, weight_decay=WEIGHT_DECAY)]


def _muon(model: nn.Module, lr: float, steps: int) -> list[Optimizer]:
    hidden, rest = divided(model)
    # Its updates then have the RMS of AdamW's, so that the learning rates mean the same.
    muon = Muon(hidden, lr, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
    return [muon, AdamW(rest, lr, betas=BETAS, weight_decay=WEIGHT_DECAY)]


def _celo2(model: nn.Module, lr: float, steps: int) -> list[Optimizer]:
    return [Celo2(model, lr, weight_decay=WEIGHT_DECAY)]


def _total_steps(model: nn.Module, lr: float, steps: int) -> list[Optimizer]:
    return [Celo2(model, total_steps=steps)]


OPTIMIZERS: dict[str, Callable[[nn.Module, float, int], list[Optimizer]]] = {
    "adamw": _adamw,
    "muon": _muon,
    "celo2": _celo2,
    "celo2-total-steps": _total_steps,
}


class Run:
    """One run: everything that a checkpoint holds."""

    def __init__(self, config: Config, identity: dict[str, Any]) -> None:
        self.identity = identity
        name, learning_rate = identity["optimizer"], identity["learning_rate"]
        if config.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(config.device)
        sizes = GPTConfig(config.width, config.layers, config.context)
        model = GPT(sizes, config.seed, config.vocabulary, config.width // config.heads)
        model.head.weight = model.token_embedding.weight
        self.config, self.device = config, torch.device(config.device)
        self.model = model.to(self.device)
        self.optimizers = OPTIMIZERS[name](self.model, learning_rate or 0.0, config.steps)
        scheduled = learning_rate is not None
        self.schedules = [schedule(each, config.steps) for each in self.optimizers if scheduled]
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, tokens: np.ndarray) -> None:
        """Train on one batch, which the seed and the number of the step decide."""
        began = time.perf_counter()
        batch = self._batch(tokens, (self.config.seed, len(self.losses)))
        loss = self._loss(batch)
        loss.backward()
        for each in (*self.optimizers, *self.schedules):
            each.step()
        self.model.zero_grad()
        self.losses.append(loss.item())  # waits for the device
        self.seconds.append(time.perf_counter() - began)

    @torch.no_grad()
    def held_out_loss(self, tokens: np.ndarray) -> float:
        """Return the mean loss on batches that are the same for every run."""
        losses = []
        for i in range(HELD_OUT_BATCHES):
            losses.append(self._loss(self._batch(tokens, (2**31, i))).item())
        return statistics.fmean(losses)

    def _loss(self, batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda"):
            return self.model.loss(batch)

    def _batch(self, tokens: np.ndarray, seed: tuple[int, int]) -> torch.Tensor:
        generator, length = np.random.default_rng(seed), self.config.context
        starts = generator.integers(0, len(tokens) - length - 1, (self.config.batch, 1))
        windows = tokens[starts + np.arange(length + 1)].astype(np.int64)
        return torch.from_numpy(windows).to(self.device)

    def save(self, path: Path) -> None:
        """Write the checkpoint as a whole."""
        parts = [each.state_dict() for each in (self.model, *self.optimizers, *self.schedules)]
        content = {"run": self.identity, "parts": parts}
        content |= {"losses": self.losses, "seconds": self.seconds}
        temporary = path.with_suffix(".part")
        torch.save(content, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint, if it is of this run."""
        content = torch.load(path, map_location=self.device, weights_only=True)
        if content["run"] != self.identity:
            return
        parts = (self.model, *self.optimizers, *self.schedules)
        for each, state in zip(parts, content["parts"], strict=True):
            each.load_state_dict(state)
        self.losses, self.seconds = content["losses"], content["seconds"]


def identities(config: Config) -> list[dict[str, Any]]:
    """Return what tells the runs apart, and what all of them share."""
    shared = dataclasses.asdict(config)
    for name in ("optimizers", "learning_rates", "minutes", "out"):
        del shared[name]
    shared["text"] = str(config.text)
    found = []
    for name in config.optimizers:
        for learning_rate in (None,) if name == "celo2-total-steps" else config.learning_rates:
            found.append({"optimizer": name, "learning_rate": learning_rate, **shared})
    return found


def main(config: Config) -> None:
    """Go on until all runs are done or the minutes are over."""
    until = time.monotonic() + 60 * config.minutes
    path, checkpoint = config.out / "runs.jsonl", config.out / "checkpoint.pt"
    done = [line["run"] for line in read_lines(path)] if path.exists() else []
    text = from_file(config.text) if config.text else standard_library()
    tokens = tokenized(text, config.vocabulary)
    config.out.mkdir(parents=True, exist_ok=True)
    for identity in identities(config):
        if identity in done:
            continue
        name = f"{identity['optimizer']} at {identity['learning_rate'] or 'total_steps'}"
        run = Run(config, identity)
        if checkpoint.exists():
            run.load(checkpoint)
        if not train(run, tokens, until, name, checkpoint):
            print(f"saved {name} after {len(run.losses)} steps; run the same command to go on")
            return
        append_line(path, {"run": identity, **result(run, tokens), **provenance()})
        checkpoint.unlink(missing_ok=True)
        del run  # before the next one is on the device
    show(path)


def train(run: Run, tokens: Tokens, until: float, name: str, checkpoint: Path) -> bool:
    """Train to the end or until the time is over; return whether it is the end."""
    saved = time.monotonic()
    while len(run.losses) < run.config.steps:
        run.step(tokens.train)
        count = len(run.losses)
        if count % 50 == 0:
            left = (run.config.steps - count) * statistics.median(run.seconds) / 60
            print(f"{name}: step {count}, loss {run.losses[-1]:.3f}, {left:.0f} minutes left")
        now, ended = time.monotonic(), count == run.config.steps
        if not ended and (now > until or now - saved > SAVE_SECONDS):
            run.save(checkpoint)
            saved = now
        if not ended and now > until:
            return False
    return True


def result(run: Run, tokens: Tokens) -> dict[str, Any]:
    """Return what a run leaves."""
    cuda = run.device.type == "cuda"
    device = torch.cuda.get_device_name(run.device) if cuda else run.device.type
    return {
        "losses": [round(loss, 4) for loss in run.losses],
        "held_out_loss": run.held_out_loss(tokens.held_out),
        "step_seconds": statistics.median(run.seconds),
        "peak_bytes": torch.cuda.max_memory_allocated(run.device) if cuda else None,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "device": device,
    }


def show(path: Path) -> None:
    """Print the held-out loss and the time of a step of every run."""
    for line in read_lines(path):
        run = line["run"]
        at = run["learning_rate"] or "total_steps"
        seconds = 1e3 * line["step_seconds"]
        print(f"{run['optimizer']:18} {at!s:12} {line['held_out_loss']:.4f}  {seconds:.0f} ms")


if __name__ == "__main__":
    main(tyro.cli(Config))
