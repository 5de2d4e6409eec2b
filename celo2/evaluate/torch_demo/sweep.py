"""What a recorded sweep of the demo found; needs no PyTorch."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from celo2.evaluate.records import Records


def best_of_sweep(path: Path) -> dict[str, tuple[float, float]]:
    """Return, for each optimizer, the best learning rate and its held-out loss, mean over seeds."""
    losses: dict[str, dict[float, list[float]]] = {}
    for record in Records(path):
        config, loss = record["run"]["config"], record["held_out_loss"]
        of_optimizer = losses.setdefault(config["optimizer"], {})
        of_seeds = of_optimizer.setdefault(config["learning_rate"], [])
        of_seeds.append(math.inf if loss is None else loss)
    best = {}
    for name, of_optimizer in losses.items():
        learning_rate = min(of_optimizer, key=lambda each: statistics.fmean(of_optimizer[each]))
        best[name] = learning_rate, statistics.fmean(of_optimizer[learning_rate])
    return best
