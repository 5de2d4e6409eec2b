"""Train GPT-3 XL by Celo2 inside 24 GiB: 1.3 billion parameters, updated in the backward pass.

Run: python -m benchmarks.gpt3_xl. Weights are initialized in bfloat16, never in float32; blocks are
recomputed in the backward pass; the state of the rule is in bfloat16; each parameter is updated
right after its gradient is accumulated, and the gradient is freed. So memory holds weights and
state, 10 bytes per entry, one block's activations and gradients, and the temporaries of one matrix.
The batch is always the same, so its loss has to fall; if it does not, or is not finite, the script
says so and exits with 1.

Peak memory is that of this process. The C++ compiler, which the first step runs, is a process of
its own and reported beside it.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import resource
import sys
import time
from collections.abc import Callable, Iterable
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
    """Train GPT-3 XL for a few steps by Celo2, and report what that takes."""

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
        """Map (batch, time, width) to the same."""
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
        """Return the head, which is not the last Linear, to the routing of Celo2."""
        return self.token_embedding

    def loss(self, tokens: Tensor) -> Tensor:
        """Return the mean cross-entropy, in nats per token, of tokens (batch, time + 1)."""
        x = self.token_embedding(tokens[:, :-1]) + self.position_embedding.weight
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        logits = F.linear(self.norm(x), self.token_embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


@torch.no_grad()
def build(config: Run) -> GPT:
    """Allocate and initialize the model in bfloat16, tensor by tensor."""
    # On the meta device first: nothing is ever allocated in float32.
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
    """Celo2 that counts and times its updates in the backward pass."""

    def __init__(self, model: nn.Module, updated: Callable[[], None], **options: Any) -> None:
        super().__init__(model, in_backward=True, **options)
        self._updated = updated
        self.restart()

    def restart(self) -> None:
        """Forget what was counted."""
        self.updates: collections.Counter[Tensor] = collections.Counter()
        self.seconds = 0.0
        """With compiling."""
        self.compile_seconds = 0.0

    def _step_one(self, p: Tensor, group: dict[str, Any]) -> None:
        began, compiled = time.perf_counter(), compile_seconds()
        super()._step_one(p, group)
        self.seconds += time.perf_counter() - began
        self.compile_seconds += compile_seconds() - compiled
        self.updates[p] += 1
        self._updated()


def compile_seconds() -> float:
    """Return what PyTorch has spent compiling so far."""
    return calculate_time_spent()["total_wall_time"]


@dataclasses.dataclass(frozen=True)
class Step:
    """One update."""

    loss: float
    """Before it, nats per token."""
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
    """Run forward and backward, in which all parameters are updated.

    Raises:
        RuntimeError: a parameter was updated twice or not at all, or a gradient was kept.
    """
    optimizer.restart()
    began = time.perf_counter()
    loss = model.loss(tokens)
    forward = time.perf_counter() - began
    loss.backward()
    backward = time.perf_counter() - began - forward - optimizer.seconds
    # The embedding is used twice, but its gradient is accumulated before it is updated.
    for name, p in model.named_parameters():
        if optimizer.updates[p] != 1 or p.grad is not None:
            kept = "was freed" if p.grad is None else "was kept"
            raise RuntimeError(
                f"{name} was updated {optimizer.updates[p]} times, and its gradient {kept}"
            )
    compiling = optimizer.compile_seconds
    return Step(
        loss.item(), forward, backward, optimizer.seconds - compiling, compiling, peak_resident()
    )


def peak_resident() -> int:
    """Return the most bytes that this program has had in memory.

    Unlike `ru_maxrss`, without what ran before it in the same process.
    """
    _, _, rest = Path("/proc/self/status").read_text().partition("VmHWM:")
    return 1024 * int(rest.split()[0])


def maximum_resident(who: int) -> int:
    """Return the most bytes in memory, as `getrusage` has it."""
    return 1024 * resource.getrusage(who).ru_maxrss


def run(config: Run, console: Console) -> str | None:
    """Build, train and report; return what is wrong with the losses, if anything."""
    began = time.perf_counter()
    model = build(config)
    build_seconds = time.perf_counter() - began
    parameters = sum(p.numel() for p in model.parameters())
    console.print(f"{parameters:,} parameters built in {build_seconds:.1f} s", highlight=False)
    optimizer, steps, losses = train(config, model, console)
    memory = {
        "parameter_bytes": _total_bytes(model.parameters()),
        "state_bytes": sum(_total_bytes(state.values()) for state in optimizer.state.values()),
        "peak_resident_bytes": peak_resident(),
        "ru_maxrss_bytes": maximum_resident(resource.RUSAGE_SELF),
        "largest_child_bytes": maximum_resident(resource.RUSAGE_CHILDREN),
    }
    console.print(time_table(build_seconds, steps), memory_table(memory))
    content = {
        **provenance(),
        "config": {**dataclasses.asdict(config), "out": str(config.out)},
        "parameters": parameters,
        "build_seconds": build_seconds,
        "losses": losses,
        **memory,
        "steps": list(map(dataclasses.asdict, steps)),
    }
    save(config.out, content)
    console.print(f"results in {config.out}", highlight=False)
    return fault(losses)


def train(config: Run, model: GPT, console: Console) -> tuple[Celo2, list[Step], list[float]]:
    """Train on one batch; return the optimizer, the steps, and losses before and after each."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(config.vocabulary, (1, config.context + 1), generator=generator)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    steps: list[Step] = []
    losses: list[float] = []
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=len(list(model.parameters())))
        optimizer = Timed(
            model,
            lambda: progress.advance(task),
            lr=config.lr,
            compile=True,
            state_dtype=torch.bfloat16,
            newton_schulz_dtype=getattr(torch, config.newton_schulz),
        )
        for i in range(1, config.steps + 1):
            progress.reset(task, description=f"step {i}, parameters updated")
            steps.append(step(model, optimizer, tokens))
            losses.append(steps[-1].loss)
            console.print(described(i, steps[-1]), highlight=False)
        with torch.no_grad():
            losses.append(model.loss(tokens).item())
    console.print(f"loss {losses[-1]:.4f} after the last step", highlight=False)
    return optimizer, steps, losses


def _total_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(x.nbytes for x in tensors)


def described(number: int, s: Step) -> str:
    """Return a step in one line."""
    total = s.forward + s.backward + s.optimizer + s.compile
    peak = s.peak_resident / GIB
    return f"step {number}: loss {s.loss:.4f}, {total:.1f} s, peak memory {peak:.2f} GiB so far"


def fault(losses: list[float]) -> str | None:
    """Return what is wrong with the losses, in a sentence."""
    if not all(map(math.isfinite, losses)):
        return f"the loss is not finite: {losses}; lower --lr"
    for before, after in itertools.pairwise(losses):
        if after >= before:
            return f"the loss on a fixed batch did not fall at every step: {losses}; lower --lr"
    return None


def time_table(build_seconds: float, steps: list[Step]) -> Table:
    """Return seconds by part and step."""
    table = Table("seconds", *(f"step {i + 1}" for i in range(len(steps))), "all")
    for name in ("forward", "backward", "optimizer", "compile"):
        values = [getattr(s, name) for s in steps]
        table.add_row(name, *map("{:.1f}".format, values), f"{sum(values):.1f}")
    table.add_row("build", *[""] * len(steps), f"{build_seconds:.1f}")
    return table


def memory_table(memory: dict[str, int]) -> Table:
    """Return memory in GiB."""
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
