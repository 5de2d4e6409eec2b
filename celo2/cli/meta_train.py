"""A meta-training run as a person sees it: data, progress with an estimate, and a theta file with its provenance at the end."""

from __future__ import annotations

import contextlib
import datetime
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import joblib
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import celo2
from celo2.data.images import LabeledSet
from celo2.errors import InputError
from celo2.meta.checkpoint import settings, theta_of
from celo2.meta.config import MetaConfig
from celo2.meta.families import task_families
from celo2.meta.outer import Metrics, run
from celo2.tasks.registry import small_sets
from celo2.theta import Theta, load_theta

Log = Callable[[Metrics], None]


def train_theta(
    name: str,
    config: MetaConfig,
    out: Path,
    console: Console,
    paths: Mapping[str, Path] | None = None,
    log: Log = lambda metrics: None,
) -> Theta:
    """Run (or go on with) a configuration in `out` and write `out/theta.safetensors`, called `name`.

    `paths` are folders of the user's own copies of data.

    Raises:
        InputError: `out` holds a run of another configuration, data cannot be had, or the run is refused (`outer.run`).
    """
    sets = small_sets(config.tasks, config.seed, paths or {}, config.colour)
    families = task_families(config, sets)
    devices = f"{jax.device_count()} device{'s' if jax.device_count() > 1 else ''}"
    images = ", ".join(s.name for s in sets)
    console.print(f"meta-training {name}: {config.outer_iterations} outer steps on {images}; {devices}; results in {out}")
    _show(run(config, families, out), config.outer_iterations, console, log)
    weights, seconds = theta_of(out)
    theta = Theta(weights, config.inner.spec, name, _provenance(config, sets, seconds))
    path = out / "theta.safetensors"
    made = path.exists() and load_theta(path).identity == theta.identity  # else its provenance is of when it was made
    if jax.process_index() == 0 and not made:
        theta.save(path)
    console.print(f"theta {theta.identity} after {seconds / 60:.1f} minutes, in {path}", highlight=False)
    return theta


def _show(run: Iterator[Metrics], total: int, console: Console, log: Log) -> None:
    """Run to the end under a progress bar; the loss shown is a running mean, since single iterations jump with their tasks."""
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    mean = None
    with Progress(*bar, console=console) as progress:
        task = progress.add_task("compiling", total=total)
        for metrics in run:
            mean = metrics.meta_loss if mean is None else 0.98 * mean + 0.02 * metrics.meta_loss
            skipped = f", {metrics.skipped} skipped" if metrics.skipped else ""
            progress.update(task, completed=metrics.iteration + 1, description=f"meta-loss {mean:.3f}{skipped}")
            log(metrics)


@contextlib.contextmanager
def tensorboard(directory: Path) -> Iterator[Log]:
    """A log that writes every metric as a TensorBoard scalar; its writer has a queue, which is written out at the end.

    Raises:
        InputError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        raise InputError("TensorBoard files need tensorboardX; install it with: pip install 'celo2[tensorboard]'") from error
    writer = SummaryWriter(str(directory), flush_secs=10)

    def log(metrics: Metrics) -> None:
        for name, value in metrics._asdict().items():
            if name != "iteration":
                writer.add_scalar(name, value, metrics.iteration)

    try:
        yield log
    finally:
        writer.close()


def _provenance(config: MetaConfig, sets: list[LabeledSet], seconds: float) -> dict[str, Any]:
    """What the theta file says of its making."""
    return {
        "config": settings(config),
        "data": {s.name: len(s.labels) for s in sets},
        "minutes": round(seconds / 60, 1),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cores": joblib.cpu_count(),
        "devices": jax.device_count(),
        "machine": platform.machine(),
        "versions": {"celo2": celo2.__version__, "jax": jax.__version__, "python": platform.python_version()},
        "commit": _commit(),
    }


def _commit() -> str:
    """The commit of the source tree, marked where files differ from it; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
