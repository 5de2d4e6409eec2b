"""Inner steps per second of meta-training against a naive baseline, and where the time goes.

Run: python -m benchmarks.meta_speed; on an accelerator, with many trajectories:

    python -m benchmarks.meta_speed --trajectories 1024 16384 --ways celo2 --no-profile --out FILE

The baseline is a direct vmap of the rule as the paper writes
it (`naive_unroll.py`) and leaves the cores to XLA. It computes the same losses and gradients, which
is checked before anything is timed. To separate the form of the rule from the use of the cores, the
baseline also runs with its trajectories sharded over them, as meta-training does. All variants run
in one process, taking turns; tables show medians. The profile leaves out one part after another.
Writes records/speed/meta-speed.json; `celo2 report` writes the tables of docs/meta-training.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.naive_unroll import LOOP, naive_unroll
from celo2 import rule
from celo2.data.synthetic.offline import offline_sets
from celo2.files import write_json
from celo2.meta import inner
from celo2.meta.devices import Devices, use_cores
from celo2.meta.estimators.base import first_starts, starts
from celo2.meta.learners import rule as learner
from celo2.rule import Accumulators, Weights
from celo2.tasks.image_sets import ImageSets
from celo2.tasks.mlp import ImageMLP
from celo2.theta import Theta

STEPS, TURNS = 50, 7
PROFILED = 8
"""Trajectories of the profile, as many as the recipe has per family."""


Way = Literal["naive", "naive, sharded", "celo2, one device", "celo2"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Time unrolls of meta-training."""

    trajectories: tuple[int, ...] = (8, 16, 64)
    """How many networks are in training side by side; multiples of the devices."""
    ways: tuple[Way, ...] = get_args(Way)
    """What is timed. The naive ones keep everything, and run out of memory first."""
    profile: bool = True
    """Also leave out one part after another."""
    out: Path = Path("records/speed/meta-speed.json")
    """Results."""


def product_unroll(
    theta: Weights,
    family: ImageMLP,
    trajectory: inner.Trajectory,
    fresh: inner.Trajectory,
    keys: jax.Array,
) -> jax.Array:
    """Compute the mean loss of one trajectory as meta-training does."""
    keys = jax.random.wrap_key_data(keys)
    steps, _ = inner.unroll(LOOP, family, theta, trajectory, fresh, keys)
    return steps.loss.mean()


class Unrolls:
    """The arguments of `count` unrolls, on one device and sharded, and their timing."""

    def __init__(self, count: int) -> None:
        self.count = count
        theta = Weights(*map(jnp.asarray, Theta.random(0).weights))
        family = ImageMLP(ImageSets.of(offline_sets(0, 2048)))
        trajectories = first_starts(LOOP, family, jax.random.key(0), count)
        fresh = starts(LOOP, family, jax.random.key(1), count)
        keys = jax.random.split(jax.random.key(2), (count, STEPS))
        arguments = trajectories, fresh, jax.random.key_data(keys)
        self.local = (theta, family, *arguments)
        self.sharded = (theta, family, *jax.tree.map(Devices(count).shard, arguments))

    def steps_per_second(self, functions: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """Time the functions, which take turns; return the inner steps per second of each."""
        taken: dict[str, list[float]] = {name: [] for name in functions}
        for turn in range(TURNS + 1):
            for name, run in functions.items():
                began = time.perf_counter()
                jax.block_until_ready(run())
                if turn:  # the first one compiles
                    taken[name].append(time.perf_counter() - began)
        steps = self.count * STEPS
        return {name: steps / statistics.median(times) for name, times in taken.items()}


def forward(unroll: Callable[..., jax.Array]) -> Any:
    """Return a function that computes the losses of all trajectories."""
    return jax.jit(jax.vmap(unroll, (None, None, 0, 0, 0)))


def gradients(unroll: Callable[..., jax.Array]) -> Any:
    """Return one that computes their meta-gradients, one each: they are clipped before the mean."""
    return jax.jit(jax.vmap(jax.grad(unroll), (None, None, 0, 0, 0)))


WAYS: dict[Way, tuple[Callable[..., jax.Array], bool]] = {
    "naive": (naive_unroll, False),
    "naive, sharded": (naive_unroll, True),
    "celo2, one device": (product_unroll, False),
    "celo2": (product_unroll, True),
}
"""What is compared: an unroll, and whether its trajectories are sharded over the cores."""


def measure(count: int, ways: Sequence[Way]) -> dict[str, float]:
    """Check that all ways agree with the first; return the inner steps per second of each."""
    unrolls, runs = Unrolls(count), {}
    for way in ways:
        unroll, sharded = WAYS[way]
        arguments = unrolls.sharded if sharded else unrolls.local
        for kind in (forward, gradients):
            runs[f"{way} {kind.__name__}"] = functools.partial(kind(unroll), *arguments)
    first, *others = ways
    losses, expected = runs[f"{first} forward"](), runs[f"{first} gradients"]()
    for way in others:
        np.testing.assert_allclose(losses, runs[f"{way} forward"](), rtol=1e-4)
        for a, b in zip(expected, runs[f"{way} gradients"](), strict=True):
            tolerance = 1e-2 * float(jnp.abs(a.mean(0)).max())
            np.testing.assert_allclose(a.mean(0), b.mean(0), atol=tolerance)
    return unrolls.steps_per_second(runs)


@contextlib.contextmanager
def replaced(*changes: tuple[Any, str, Callable]) -> Iterator[None]:
    """Replace functions of modules while the context lasts: (module, name, function)."""
    before = [getattr(module, name) for module, name, _ in changes]
    try:
        for module, name, function in changes:
            setattr(module, name, function)
        yield
    finally:
        for (module, name, _), function in zip(changes, before, strict=True):
            setattr(module, name, function)


def no_newton_schulz(xp: Any, spec: Any, d: jax.Array) -> jax.Array:
    """Return the direction as it is."""
    return d


def no_mlp(xp: Any, theta: Weights, layer: rule.Channels, channels: rule.Channels) -> jax.Array:
    """Return a direction that needs all channels, normalized, and no MLP."""
    d: Any = 0.0
    pairs: Any = zip(layer, channels, strict=True)
    for w, kind in pairs:
        for i, x in enumerate(kind or ()):
            d = d + w[..., i, :1][..., None, :] * x
    return d


def no_rule(
    xp: Any,
    spec: Any,
    theta: Weights,
    accumulators: Accumulators,
    g: Any,
    p: Any,
    orthogonalize: Any,
) -> Any:
    """Take a step of gradient descent."""
    return theta.w0[0, 0] * g, accumulators


def profile() -> dict[str, dict[str, float]]:
    """Time an inner step with gradients by what is left of it, and compare with the arithmetic.

    Times are in microseconds, on all cores. Floating-point operations are XLA's count of the
    unoptimized program (rematerialization included); the machine's speed is that of products of
    1024 x 1024 matrices on all devices.
    """
    unrolls = Unrolls(PROFILED)
    update_module = importlib.import_module("celo2.rule.update")  # the package has a function so
    newton_schulz = (learner, "orthogonalize", no_newton_schulz)
    mlp = (update_module, "direction", no_mlp)
    stages = {
        "all": [],
        "Newton-Schulz by autodiff": [(learner, "orthogonalize", rule.orthogonalize)],
        "without Newton-Schulz": [newton_schulz],
        "and without the MLP": [newton_schulz, mlp],
        "gradient descent": [(rule, "update", no_rule)],
    }
    compiled, operations = {}, 0.0
    for name, changes in stages.items():
        # jit caches what it traced by the function, so each stage needs its own.
        run = gradients(lambda *arguments: product_unroll(*arguments))
        with replaced(*changes):
            lowered = run.lower(*unrolls.sharded)
            operations = operations or lowered.cost_analysis()["flops"] / unrolls.count
            compiled[name] = functools.partial(lowered.compile(), *unrolls.sharded)
    speeds = unrolls.steps_per_second(compiled)
    return {
        "microseconds": {name: 1e6 / speed for name, speed in speeds.items()},
        "arithmetic": {
            "MFLOP per inner step": operations / 1e6,
            "GFLOP per second": operations * speeds["all"] / 1e9,
            "GFLOP per second of large products": products_speed() / 1e9,
        },
    }


def products_speed(n: int = 1024) -> float:
    """Return the floating-point operations per second of large products, one per device."""
    x = Devices(jax.device_count()).shard(jnp.ones((jax.device_count(), n, n)))
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(x))
    taken = []
    for _ in range(20):
        began = time.perf_counter()
        jax.block_until_ready(product(x))
        taken.append(time.perf_counter() - began)
    return 2 * n**3 * jax.device_count() / statistics.median(taken)


def main(config: Config) -> None:
    """Measure, print, save."""
    if config.out == Config.out and config != Config():
        sys.exit("--out is where celo2 report reads the default settings; give another file")
    use_cores(*config.trajectories)
    ways = config.ways
    results = {count: measure(count, ways) for count in config.trajectories}
    over = f"{ways[-1]} / {ways[0]}"
    table = Table("trajectories", "", *ways, over, title="inner steps per second")
    for count, speeds in results.items():
        for kind in ("forward", "gradients"):
            row = [speeds[f"{way} {kind}"] for way in ways]
            cells = [f"{speed:,.0f}" for speed in row]
            table.add_row(str(count), kind, *cells, f"{row[-1] / row[0]:.1f}")
    console = Console()
    console.print(table)
    device = jax.devices()[0].device_kind
    content = {"devices": jax.device_count(), "device": device, "jax": jax.__version__}
    content["steps per second"] = results
    if config.profile:
        content["profile"] = profile()
        show(content["profile"], console)
    write_json(config.out, content)


def show(parts: dict[str, dict[str, float]], console: Console) -> None:
    """Print a profile."""
    table = Table("", "", title=f"an inner step with gradients, {PROFILED} trajectories")
    for name, microseconds in parts["microseconds"].items():
        table.add_row(name, f"{microseconds:.0f} us")
    for name, number in parts["arithmetic"].items():
        table.add_row(name, f"{number:.1f}")
    console.print(table)


if __name__ == "__main__":
    main(tyro.cli(Config))
