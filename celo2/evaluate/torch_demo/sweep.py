"""What a recorded sweep of the demo found; needs no PyTorch."""

from __future__ import annotations

import statistics
from pathlib import Path

from celo2.evaluate.records import Records


def best_of_sweep(path: Path) -> dict[str, tuple[float, float]]:
    """Return, for each optimizer, the best learning rate and its held-out loss, mean over seeds."""
    losses: dict[str, dict[float, list[float]]] = {}
    for record in Records(path):
        config, loss = record["run"]["config"], record["held_out_loss"]
        rates = losses.setdefault(config["optimizer"], {})
        rates.setdefault(config["learning_rate"], []).append(float("inf") if loss is None else loss)
    best = {}
    for name, rates in losses.items():
        means = {rate: statistics.fmean(values) for rate, values in rates.items()}
        learning_rate = min(means, key=means.__getitem__)
        best[name] = learning_rate, means[learning_rate]
    return best
