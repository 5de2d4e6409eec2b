"""`celo2 meta-train`: a meta-training run, and a theta file with its provenance at the end."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from celo2.cli.terminal import progress
from celo2.errors import InputError

if TYPE_CHECKING:
    from celo2.data.images import LabeledSet
    from celo2.meta.config import MetaConfig
    from celo2.meta.outer import Metrics
    from celo2.theta import Theta


@dataclasses.dataclass(frozen=True)
class MetaTrain:
    """Meta-train a theta. Interrupt it at any time; the same command resumes."""

    preset: str = "celo2"
    """One of celo2, quick (a quarter of it), celo2-published-data, celo2-lean (a rule with half the
    state), celo2-base, paper (PES, as published)."""
    out: Path | None = None
    """Folder of checkpoint, metrics and theta.safetensors; by default runs/meta-PRESET."""
    seed: int = 0
    """Of everything that is drawn."""
    outer_steps: int | None = None
    """Outer steps, instead of the preset's."""
    trajectories: int | None = None
    """Per network family, instead of the preset's; a multiple of processes and of accelerators."""
    paths: dict[str, Path] = dataclasses.field(default_factory=dict)
    """Folders of your own copies of data, as pairs: mnist FOLDER (IDX), cifar10 FOLDER (binary),
    svhn FOLDER (.mat)."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes; give --processes and --process too. --out must
    be on shared storage."""
    processes: int | None = None
    """How many processes work together."""
    process: int | None = None
    """Which of them this is, from 0."""

    def __call__(self, console: Console) -> None:
        """Run and write theta."""
        import jax

        from celo2.meta.devices import use_cores

        if len({self.coordinator is None, self.processes is None, self.process is None}) == 2:
            raise InputError(
                "--coordinator, --processes and --process go together; give all or none"
            )
        out = self.out or Path("runs") / f"meta-{self.preset}"
        config = self._config()
        use_cores(config.estimator.trajectories, processes=self.processes or 1)
        if self.coordinator is not None:
            jax.distributed.initialize(self.coordinator, self.processes, self.process)
            console.quiet = bool(self.process)  # the first one speaks
        train_theta(self.preset, config, out, console, self.paths)

    def _config(self) -> MetaConfig:
        from celo2.meta.config import from_settings
        from celo2.meta.presets import preset

        changes = {
            "seed": self.seed,
            "outer_steps": self.outer_steps,
            "estimator.trajectories": self.trajectories,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        return from_settings(given, preset(self.preset))


def train_theta(
    name: str,
    config: MetaConfig,
    out: Path,
    console: Console,
    paths: Mapping[str, Path] | None = None,
) -> Theta:
    """Run or resume a configuration in `out` and write `out/theta.safetensors`, called `name`.

    `paths` are folders of the user's own copies of data.

    Raises:
        InputError: `out` holds a run of another configuration, data cannot be had, or the run is
            refused (`outer.run`).
    """
    import jax

    from celo2.meta.checkpoint import theta_of
    from celo2.meta.families import task_families
    from celo2.meta.outer import run
    from celo2.tasks.registry import small_sets
    from celo2.theta import Theta, load_theta

    sets = small_sets(config.tasks, config.seed, paths or {}, config.color)
    families = task_families(config, sets)
    devices = f"{jax.device_count()} device{'s' if jax.device_count() > 1 else ''}"
    images = ", ".join(s.name for s in sets)
    console.print(
        f"meta-training {name}: {config.outer_steps} outer steps on {images}; {devices}; "
        f"results in {out}"
    )
    _show(run(config, families, out), config.outer_steps, console)
    weights, seconds = theta_of(out)
    theta = Theta(weights, config.inner.spec, name, _provenance(config, sets, seconds))
    path = out / "theta.safetensors"
    if path.exists() and load_theta(path).identity == theta.identity:
        theta = load_theta(path)  # its provenance is of when it was made
    elif jax.process_index() == 0:
        theta.save(path)
    console.print(f"theta {theta.identity} after {seconds / 60:.1f} minutes, in {path}")
    return theta


def _show(run: Iterator[Metrics], total: int, console: Console) -> None:
    """Run to the end under a progress bar.

    The loss that is shown is a running mean, because single outer steps jump with their tasks.
    """
    mean = None
    with progress(console, "compiling", total) as update:
        for metrics in run:
            mean = metrics.meta_loss if mean is None else 0.98 * mean + 0.02 * metrics.meta_loss
            skipped = f", {metrics.skipped} skipped" if metrics.skipped else ""
            update(completed=metrics.step + 1, description=f"meta-loss {mean:.3f}{skipped}")


def _provenance(config: MetaConfig, sets: list[LabeledSet], seconds: float) -> dict[str, Any]:
    """Return what the theta file says of its making."""
    import jax

    from celo2.meta.config import to_settings
    from celo2.meta.devices import cores
    from celo2.provenance import provenance

    return {
        "config": to_settings(config),
        "data": {s.name: len(s.labels) for s in sets},
        "minutes": round(seconds / 60, 1),
        "cores": cores(),
        "devices": jax.device_count(),
        "machine": platform.machine(),
        **provenance("jax"),
    }
