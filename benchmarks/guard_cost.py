"""What the guard adds to an optimizer step in PyTorch.

    python -m benchmarks.guard_cost

Optimizers without and with the guard, and one without it again, take turns in one process and one
thread, and the least processor time of each is compared, which other work on the machine disturbs
least. The second one without it shows how much is disturbance.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from pathlib import Path

import torch
import tyro
from torch import nn

from celo2.files import write_json
from celo2.provenance import provenance
from celo2.torch import Celo2

SHAPES = {
    "GPT of width 128, 4 blocks": [(384, 128), (128, 128), (512, 128), (128, 512)] * 4,
    "one matrix (384, 1536)": [(384, 1536)],
}
GUARDS = {"without": None, "guard": 0.01, "again": None}


@dataclasses.dataclass(frozen=True)
class Config:
    """Time steps, eager, of hidden matrices alone."""

    repeats: int = 30
    """Turns that count, after two that warm up."""
    out: Path = Path("records/speed/guard.json")
    """Results."""


def main(config: Config) -> None:
    """Measure all cases and write the results."""
    torch.set_num_threads(1)
    rows = []
    for model in SHAPES:
        for orthogonalize in (True, False):
            row = {"model": model, "rule": "Celo2" if orthogonalize else "Celo2-base"}
            rows.append(row | measure(model, orthogonalize, config.repeats))
            print(rows[-1], flush=True)
    origin = {"repeats": config.repeats, "processor": platform.machine(), **provenance("torch")}
    write_json(config.out, {**origin, "rows": rows})


def measure(model: str, orthogonalize: bool, repeats: int) -> dict[str, float]:
    """Return milliseconds of a step without the guard, and ratios to it."""
    optimizers = {}
    for name, guard in GUARDS.items():
        group = {"params": parameters(SHAPES[model]), "rule": "celo2"}
        optimizers[name] = Celo2(
            [group], lr=1e-4, guard=guard, compile=False, orthogonalize=orthogonalize
        )
    taken: dict[str, list[float]] = {name: [] for name in optimizers}
    for turn in range(2 + repeats):
        for name, optimizer in optimizers.items():
            began = time.process_time()
            optimizer.step()
            if turn >= 2:
                taken[name].append(time.process_time() - began)
    least = {name: min(seconds) for name, seconds in taken.items()}
    found = {name: round(least[name] / least["without"], 4) for name in ("guard", "again")}
    return {"milliseconds": round(1e3 * least["without"], 1), **found}


def parameters(shapes: list[tuple[int, int]]) -> list[nn.Parameter]:
    """Return parameters with gradients, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for shape in shapes:
        p = nn.Parameter(0.02 * torch.randn(shape, generator=generator))
        p.grad = 0.01 * torch.randn(shape, generator=generator)
        found.append(p)
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
