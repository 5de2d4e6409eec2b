"""Real steps of Celo2 on GPT-3 XL inside 24 GiB: 1.3 billion parameters in bfloat16, each moved in the backward pass.

Run: python -m benchmarks.gpt3_xl. Weights are made in bfloat16, never in float32; blocks are recomputed in the backward pass;
the state of the rule is in bfloat16; a parameter moves as soon as its gradient is there, and the gradient is freed. So there
are weights and state, 10 bytes an entry, one block's activations and gradients, and the temporaries of one matrix. The batch
is always the same, so its loss has to fall; if it does not, or is not finite, the script says so and exits with 1.

Peak memory is that of this process. The C++ compiler, which the first step runs, is a process of its own and told beside it.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn
from torch._dynamo.utils import calculate_time_spent
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from benchmarks.provenance import provenance, save
from celo2.torch import Celo2

HEADS = 16
DEVIATION = 0.02
"""Of all initial weights but those of norms."""
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Run:
    """Train GPT-3 XL for a few steps by Celo2, and tell what that takes."""

    layers: int = 24
    """Transformer blocks."""
    width: int = 2048
    """Of the residual stream; a multiple of the 16 heads."""
    vocabulary: int = 50257
    """Tokens; the head is tied to their embedding."""
    context: int = 128
    """Tokens of the one sequence of the batch."""
    steps: int = 3
    """Updates."""
    lr: float = 2e-4
    """Constant; embeddings, norms and biases run at 20 times that."""
    newton_schulz: Literal["bfloat16", "float32"] = "bfloat16"
    """Dtype of the products of Newton-Schulz."""
    out: Path = Path("records/speed/gpt3-xl.json")
    """Results."""


class Block(nn.Module):
    """Attention and an MLP four times as wide, each behind a norm and around a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) -> the same."""
        batch, time, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, time, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """Next-token prediction, the head tied to the embedding of tokens."""

    def __init__(self, config: Run) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config.width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def get_output_embeddings(self) -> nn.Module:
        """The head, as Transformers calls it; tells Celo2's routing that the last Linear is not one."""
        return self.token_embedding

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy, in nats a token, of tokens (batch, time + 1)."""
        x = self.token_embedding(tokens[:, :-1]) + self.position_embedding.weight
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        logits = F.linear(self.norm(x), self.token_embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


@torch.no_grad()
def build(config: Run) -> GPT:
    """The model, allocated and drawn in bfloat16, tensor by tensor."""
    with torch.device("meta"):
        model = GPT(config).to(torch.bfloat16)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        if p.ndim > 1:
            p.normal_(std=DEVIATION, generator=generator)
        else:
            p.fill_(float("norm" in name and name.endswith("weight")))
    return model


class Timed(Celo2):
    """Celo2 that counts and times its moves in the backward pass."""

    def __init__(self, model: nn.Module, moved: Callable[[], None], **options: Any) -> None:
        super().__init__(model, in_backward=True, **options)
        self._moved = moved
        self.restart()

    def restart(self) -> None:
        """Forget what was counted."""
        self.moves: collections.Counter[Tensor] = collections.Counter()
        self.seconds = 0.0
        """With compiling."""
        self.compile_seconds = 0.0

    def _step_one(self, p: Tensor, group: dict[str, Any]) -> None:
        began, compiled = time.perf_counter(), compile_seconds()
        super()._step_one(p, group)
        self.seconds += time.perf_counter() - began
        self.compile_seconds += compile_seconds() - compiled
        self.moves[p] += 1
        self._moved()


def compile_seconds() -> float:
    """That PyTorch has spent compiling so far."""
    return calculate_time_spent()["total_wall_time"]


@dataclasses.dataclass(frozen=True)
class Step:
    """One update."""

    loss: float
    """Before it, nats a token."""
    forward: float
    """Seconds, as all that follow."""
    backward: float
    """Without the optimizer."""
    optimizer: float
    """Without compiling."""
    compile: float
    peak_resident: int
    """Bytes, the most since the process began."""


def step(model: GPT, optimizer: Timed, tokens: Tensor) -> Step:
    """Forward and backward, in which all parameters move.

    Raises:
        RuntimeError: a parameter moved twice or not at all, or a gradient was kept.
    """
    optimizer.restart()
    began = time.perf_counter()
    loss = model.loss(tokens)
    forward = time.perf_counter() - began
    loss.backward()
    backward = time.perf_counter() - began - forward - optimizer.seconds
    for name, p in model.named_parameters():  # also of the embedding, which is used twice
        if optimizer.moves[p] != 1 or p.grad is not None:
            raise RuntimeError(
                f"{name} moved {optimizer.moves[p]} times in a step, gradient {p.grad is not None}"
            )
    compiling = optimizer.compile_seconds
    return Step(
        loss.item(), forward, backward, optimizer.seconds - compiling, compiling, peak_resident()
    )


def peak_resident() -> int:
    """Bytes this program has had in memory at the most; unlike ru_maxrss, without what ran before it in the same process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def maximum_resident(who: int) -> int:
    """Bytes, as `getrusage` has it."""
    return 1024 * resource.getrusage(who).ru_maxrss


def run(config: Run, console: Console) -> str | None:
    """Build, train, report; what is wrong with the losses, if anything."""
    began = time.perf_counter()
    model = build(config)
    build_seconds = time.perf_counter() - began
    parameters = sum(p.numel() for p in model.parameters())
    console.print(f"{parameters:,} parameters made in {build_seconds:.1f} s", highlight=False)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(config.vocabulary, (1, config.context + 1), generator=generator)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    steps: list[Step] = []
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(list(model.parameters())))
        options = {
            "lr": config.lr,
            "state_dtype": torch.bfloat16,
            "newton_schulz_dtype": getattr(torch, config.newton_schulz),
        }
        optimizer = Timed(model, lambda: progress.advance(task), compile=True, **options)
        for i in range(1, config.steps + 1):
            progress.reset(task, description=f"step {i}, parameters moved")
            steps.append(step(model, optimizer, tokens))
            console.print(told(i, steps[-1]), highlight=False)
        with torch.no_grad():
            losses = [*(s.loss for s in steps), model.loss(tokens).item()]
    console.print(f"loss {losses[-1]:.4f} after the last step", highlight=False)
    states = [x for state in optimizer.state.values() for x in state.values()]
    memory = {
        "parameter_bytes": sum(p.nbytes for p in model.parameters()),
        "state_bytes": sum(x.nbytes for x in states),
        "peak_resident_bytes": peak_resident(),
        "ru_maxrss_bytes": maximum_resident(resource.RUSAGE_SELF),
        "largest_child_bytes": maximum_resident(resource.RUSAGE_CHILDREN),
    }
    console.print(time_table(build_seconds, steps), memory_table(memory))
    settings = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in dataclasses.asdict(config).items()
    }
    content = {
        **provenance(),
        "config": settings,
        "parameters": parameters,
        "build_seconds": build_seconds,
        "losses": losses,
    }
    save(config.out, {**content, **memory, "steps": [dataclasses.asdict(s) for s in steps]})
    console.print(f"results in {config.out}", highlight=False)
    return fault(losses)


def told(number: int, s: Step) -> str:
    """A step in one line."""
    total = s.forward + s.backward + s.optimizer + s.compile
    return f"step {number}: loss {s.loss:.4f}, {total:.1f} s, at most {s.peak_resident / GIB:.2f} GiB resident so far"


def fault(losses: list[float]) -> str | None:
    """What is wrong with the losses, in a sentence."""
    if not all(map(math.isfinite, losses)):
        return f"the loss is not finite: {losses}; lower --lr"
    if any(after >= before for before, after in itertools.pairwise(losses)):
        return f"the loss on a fixed batch did not fall at every step: {losses}; lower --lr"
    return None


def time_table(build_seconds: float, steps: list[Step]) -> Table:
    """Seconds by part and step."""
    table = Table("seconds", *(f"step {i + 1}" for i in range(len(steps))), "all")
    for name in ("forward", "backward", "optimizer", "compile"):
        values = [getattr(s, name) for s in steps]
        table.add_row(name, *(f"{x:.1f}" for x in (*values, sum(values))))
    table.add_row("build", *[""] * len(steps), f"{build_seconds:.1f}")
    return table


def memory_table(memory: dict[str, int]) -> Table:
    """In GiB."""
    table = Table("memory", "GiB")
    for name, value in memory.items():
        table.add_row(name.removesuffix("_bytes").replace("_", " "), f"{value / GIB:.2f}")
    return table


def main() -> None:
    """Read the arguments and run."""
    config = tyro.cli(Run)
    if config.width % HEADS:
        sys.exit(f"--width is {config.width}; give a multiple of {HEADS}, the number of heads")
    sys.exit(run(config, Console()))


if __name__ == "__main__":
    main()
