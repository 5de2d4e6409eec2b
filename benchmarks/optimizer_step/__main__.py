"""Measure an optimizer step of Celo2, Muon and AdamW on the weights of known models.

Run: python -m benchmarks.optimizer_step, on a GPU with --device cuda. It reports the time of a
step, the bytes of state and of temporaries. Only parameters and random gradients are made, no
forward pass; all optimizers of a setting (model and dtype of its parameters) update the same
parameters in one process, taking turns, and medians and their ratios are reported. A measurement
replaces earlier results of its setting; other settings stay in the file. `celo2 report` writes the
tables of docs/costs.md from that of the CPU.

Every optimizer has the routing of Celo2: hidden matrices and convolutions by the rule that is
measured, the rest by AdamW. torch.optim.Muon takes matrices only, so it gets a convolution kernel
as the one matrix (out, in * taps), a view of the same weights; Celo2 reads it as one as well. In
bfloat16 the state of torch's optimizers is bfloat16 too, while Celo2 keeps its own in float32, or
as `state_dtype` says.

A first step is reported apart: it makes the state and compiles. Caches are emptied before each
setting, but within one the kernels that an optimizer compiled serve those after it, as those of
celo2 do celo2-no-ns. With all optimizers, GPT-2 needs 16 GB.
"""

from __future__ import annotations

import itertools
import os
import sys

# Set before torch is loaded, or the profiler reports when it starts and stops.
os.environ["KINETO_LOG_LEVEL"] = "99"
import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.optimizer_step import optimizers
from benchmarks.optimizer_step.measure import Benchmark, Setting, measure, nothing_compiled
from benchmarks.optimizer_step.report import BASELINE, draw, keep, load, paired, table
from benchmarks.provenance import provenance


def run(config: Benchmark, console: Console) -> None:
    """Measure, print, save."""
    # Read first: a damaged file should not be found when there is something to add to it.
    load(config.results)
    torch.set_num_threads(config.threads)
    optimizers.check_naive()
    origin = {**provenance(), "layers": config.layers, "repeats": config.repeats}
    if config.device != "cpu":
        origin["device"] = torch.cuda.get_device_name()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        for model, dtype in itertools.product(config.models, config.dtypes):
            with nothing_compiled():
                setting = Setting(model, dtype, origin, measure(model, dtype, config, progress))
            keep(setting, config.results)
            console.print(table(setting), paired(setting))
    picture = config.results.with_suffix(".png")
    draw(load(config.results), picture)
    console.print(f"results in {config.results}, picture in {picture}", highlight=False)


def main() -> None:
    """Read the arguments, and run."""
    config = tyro.cli(Benchmark)
    if BASELINE not in config.optimizers:
        sys.exit(f"--optimizers has no {BASELINE}, the baseline of the ratios; add it")
    elif config.profile and "celo2" not in config.optimizers:
        sys.exit("--profile is of celo2, and --optimizers has no celo2; add it")
    elif config.profile and config.device != "cpu":
        sys.exit("--profile adds up processor time, which says nothing of a GPU; leave it out")
    else:
        run(config, Console())


if __name__ == "__main__":
    main()
