"""`celo2 meta-train`: a meta-training run, and a theta file with its provenance at the end."""

from __future__ import annotations

import dataclasses
import json
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

    preset: str | None = None
    """One of celo2, quick (a quarter of it), celo2-published-data, celo2-total-steps (networks
    trained as total_steps= does), varied (the same on more kinds of networks and lengths of runs),
    celo2-lean (a rule with half the state), celo2-base, adapt (from the shipped theta, for
    --family), paper (PES, as published); celo-mlp and then celo (the two phases of a small Celo),
    velo (a small VeLO). By default celo2, with --family adapt."""
    family: tuple[str, ...] = ()
    """Your own task families as module:function, a function without arguments that returns one;
    they take the place of the preset's."""
    start: str | None = None
    """Theta at first, instead of the preset's: the name of one that ships, or a file."""
    out: Path | None = None
    """Folder of checkpoint, metrics and theta.safetensors; by default runs/meta-PRESET."""
    seed: int = 0
    """Of everything that is drawn."""
    outer_steps: int | None = None
    """Outer steps, instead of the preset's."""
    trajectories: int | None = None
    """Per network family, instead of the preset's; a multiple of processes and of accelerators."""
    horizon: tuple[int, int] | None = None
    """Shortest and longest run of a network, instead of the preset's: 200 and 500 steps in celo2,
    100 and 5,000 in varied."""
    paths: dict[str, Path] = dataclasses.field(default_factory=dict)
    """Folders of your own copies of data, as pairs: mnist FOLDER and fashion-mnist FOLDER (IDX),
    cifar10 FOLDER (binary), svhn FOLDER (.mat)."""
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
        name = self.preset or ("adapt" if self.family else "celo2")
        out = self.out or Path("runs") / f"meta-{name}"
        config = self._config(name)
        # Both come before anything that starts JAX's devices.
        use_cores(config.estimator.trajectories, processes=self.processes or 1)
        if self.coordinator is not None:
            jax.distributed.initialize(self.coordinator, self.processes, self.process)
            console.quiet = bool(self.process)  # the first one speaks
        if self.family:
            config = _with_ceiling(config, out)
        train = train_theta if config.inner.learner == "rule" else train_baseline
        train(name, config, out, console, self.paths)

    def _config(self, name: str) -> MetaConfig:
        from celo2.meta.config import from_settings
        from celo2.meta.presets import preset

        changes = {
            "seed": self.seed,
            "outer_steps": self.outer_steps,
            "estimator.trajectories": self.trajectories,
            "start": self.start,
            "inner.horizon": self.horizon,
            "families": self.family or None,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        return from_settings(given, preset(name))


def train_theta(
    name: str,
    config: MetaConfig,
    out: Path,
    console: Console,
    paths: Mapping[str, Path] | None = None,
) -> Theta:
    """Run or resume a configuration of the rule in `out`, and write `out/theta.safetensors`.

    `name` is that of theta; `paths` are folders of the user's own copies of data.

    Raises:
        InputError: `out` holds a run of another configuration, data cannot be had, or the run is
            refused (`outer.run`).
    """
    import jax

    from celo2.meta.checkpoint import theta_of
    from celo2.meta.starts import STARTS
    from celo2.theta import Theta, load_theta

    provenance = _meta_train(name, config, out, console, paths or {})
    weights, seconds = theta_of(out)
    # Learning rates are those it was trained with; or, adapted, of the theta that it began as.
    source = config.inner.policy or (None if config.start in STARTS else config.start)
    policy = None if source is None else load_theta(source).policy
    theta = Theta(weights, config.inner.spec, name, provenance | _minutes(seconds), policy)
    path = out / "theta.safetensors"
    if path.exists() and load_theta(path).identity == theta.identity:
        theta = load_theta(path)  # its provenance is of when it was made
    elif jax.process_index() == 0:
        theta.save(path)
    console.print(f"theta {theta.identity} after {seconds / 60:.1f} minutes, in {path}")
    return theta


def train_baseline(
    name: str,
    config: MetaConfig,
    out: Path,
    console: Console,
    paths: Mapping[str, Path] | None = None,
) -> None:
    """Run or resume a configuration of Celo or VeLO, as `train_theta` does for the rule."""
    import jax

    from celo2.baselines import save_weights, weights_hash
    from celo2.meta.checkpoint import theta_of
    from celo2.meta.starts import start

    provenance = _meta_train(name, config, out, console, paths or {})
    like = start(config.start, config.seed, config.inner)
    weights, seconds = theta_of(out, like)
    path = out / "theta.safetensors"
    if jax.process_index() == 0:
        save_weights(path, weights, {"name": name} | provenance | _minutes(seconds))
    found = weights_hash(weights)
    console.print(f"theta {name}@{found} after {seconds / 60:.1f} minutes, in {path}")


def _meta_train(
    name: str, config: MetaConfig, out: Path, console: Console, paths: Mapping[str, Path]
) -> dict[str, Any]:
    """Run or resume a configuration in `out`; return what theta's file says of its making."""
    import jax

    from celo2.meta.families import check_families, needs_images, task_families
    from celo2.meta.outer import run
    from celo2.tasks.registry import small_sets

    check_families(config.families)  # before images are loaded
    sets = []
    if any(map(needs_images, config.families)):
        sets = small_sets(config.tasks, config.seed, paths, config.color)
    families = task_families(config, sets)
    devices = f"{jax.device_count()} device{'s' if jax.device_count() > 1 else ''}"
    others = [name for name in config.families if not needs_images(name)]
    trained_on = others + [s.name for s in sets]
    console.print(
        f"meta-training {name}: {config.outer_steps} outer steps on {', '.join(trained_on)}; "
        f"{devices}; results in {out}"
    )
    _show(run(config, families, out), config.outer_steps, console)
    return _provenance(config, sets)


def _with_ceiling(config: MetaConfig, out: Path) -> MetaConfig:
    """Return a configuration with the loss ceiling that suits the user's own families.

    A run that is resumed keeps its own.
    """
    from celo2.meta.config import from_settings
    from celo2.meta.families import loss_ceiling, own

    saved = out / "config.json"
    if saved.exists():
        ceiling = json.loads(saved.read_text()).get("inner.loss_ceiling")
    else:
        ceiling = loss_ceiling([own(path) for path in config.families], config.seed)
    return from_settings({"inner.loss_ceiling": ceiling}, config)


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


def _minutes(seconds: float) -> dict[str, float]:
    return {"minutes": round(seconds / 60, 1)}


def _provenance(config: MetaConfig, sets: list[LabeledSet]) -> dict[str, Any]:
    """Return what the theta file says of its making."""
    import jax

    from celo2.meta.config import to_settings
    from celo2.meta.devices import cores
    from celo2.provenance import provenance

    return {
        "config": to_settings(config),
        "data": {s.name: len(s.labels) for s in sets},
        "cores": cores(),
        "devices": jax.device_count(),
        "machine": platform.machine(),
        **provenance("jax"),
    }
