"""Inner steps a second of meta-training, against a direct vmap of the rule as the paper writes it, and where the time goes.

Run: python benchmarks/meta_speed.py. The naive twin spreads all 30 channels over every matrix, channels last, normalizes
each of them, keeps what backpropagation needs, and leaves the cores to XLA; it computes the same losses and gradients,
which is checked before anything is timed. To tell the rule's form from the use of the cores, the twin also runs with its
trajectories spread over them, as meta-training does. All run in one process, taking turns; tables show medians. The
profile leaves out one part after another. Writes records/speed/meta-speed.json.
"""

from __future__ import annotations

import contextlib
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from celo2 import rule
from celo2.data.synthetic.offline import offline_sets
from celo2.meta import inner
from celo2.meta.devices import Devices, use_cores
from celo2.meta.estimators.base import first_starts, starts
from celo2.parameters.views import MatrixAxes, matrix_views
from celo2.rule import Accumulators, Weights
from celo2.tasks.image_sets import ImageSets
from celo2.tasks.mlp import ImageMLP
from celo2.theta import Theta

TRAJECTORIES, STEPS, TURNS = (8, 16, 64), 50, 7
PROFILED = 8
"""Trajectories of the profile, as many as the recipe has of a family."""
LOOP = inner.InnerLoop(horizon=(2000, 2000), staggered=False)


def naive_update(
    theta: Weights, acc: Accumulators, g: jax.Array, p: jax.Array
) -> tuple[jax.Array, Accumulators]:
    """The rule on one matrix (a, b), channels last."""
    spec = LOOP.spec
    g = jnp.clip(g, -spec.gradient_clip, spec.gradient_clip)
    acc = rule.accumulate(jnp, spec, acc, g)
    m, v, (r, c) = acc
    s = 1 / jnp.sqrt(v + 1e-8)
    f = (
        1
        / jnp.sqrt(jnp.maximum(r / (r.mean(-2, keepdims=True) + 1e-9), 1e-9))
        / jnp.sqrt(jnp.maximum(c, 1e-9))
    )
    full = functools.partial(jnp.broadcast_to, shape=m.shape)
    stacks = [
        m,
        m * s,
        g * f,
        full(r),
        full(c),
        full(1 / jnp.sqrt(r + 1e-8)),
        full(1 / jnp.sqrt(c + 1e-8)),
        m * f,
    ]
    ms, mss, gf, rs, cs, ir, ic, mf = stacks
    channels = [g, jnp.clip(g, -0.1, 0.1), p, *ms, v, *mss, s, *gf, g * s, *rs, *cs, *ir, *ic, *mf]
    x = jnp.stack(channels, -1)
    x = x / jnp.sqrt(1e-9 + jnp.mean(x * x, (0, 1), keepdims=True))
    h = jax.nn.relu(x @ theta.w0 + theta.b0)
    d = (jax.nn.relu(h @ theta.w1 + theta.b1) @ theta.w2 + theta.b2)[..., 0]
    d = rule.orthogonalize(jnp, spec, d)
    return d / jnp.sqrt(1e-9 + jnp.mean(d * d)), acc


def naive_unroll(
    theta: Weights,
    family: ImageMLP,
    trajectory: inner.Trajectory,
    fresh: inner.Trajectory,
    keys: jax.Array,
) -> jax.Array:
    """Mean loss of one trajectory, which does not end; everything backpropagation needs is kept."""

    def step(carry: Any, key: jax.Array) -> Any:
        params, statistics = carry
        batch_key = jax.random.split(key)[0]
        value_and_grad = jax.value_and_grad(family.loss, has_aux=True)
        (loss, _), grads = value_and_grad(params, (), trajectory.task, batch_key)
        new_params, new_statistics = {}, {}
        for name, p in params.items():
            if p.ndim < 2:
                update, new_statistics[name] = inner._adam(statistics[name], grads[name])
                update = LOOP.adamw_lr_multiplier * update
            else:
                (part,) = matrix_views(p.shape, MatrixAxes())
                view_g, view_p = part.view(jnp, grads[name]), part.view(jnp, p)
                update, new_statistics[name] = naive_update(theta, statistics[name], view_g, view_p)
                update = part.inverse(jnp, update)
            new_params[name] = p - trajectory.learning_rate * update
        return (new_params, new_statistics), loss

    return jax.lax.scan(
        step, (trajectory.params, trajectory.statistics), jax.random.wrap_key_data(keys)
    )[1].mean()


def product_unroll(
    theta: Weights,
    family: ImageMLP,
    trajectory: inner.Trajectory,
    fresh: inner.Trajectory,
    keys: jax.Array,
) -> jax.Array:
    """Mean loss of one trajectory, as meta-training computes it."""
    return inner.unroll(LOOP, family, theta, trajectory, fresh, jax.random.wrap_key_data(keys))[
        0
    ].loss.mean()


class Unrolls:
    """The arguments of so many unrolls, whole and spread over the devices, and their timing."""

    def __init__(self, count: int) -> None:
        self.count = count
        theta = Weights(*map(jnp.asarray, Theta.random(0).weights))
        family = ImageMLP(ImageSets.of(offline_sets(0, 2048)))
        trajectories = first_starts(LOOP, family, jax.random.key(0), count)
        fresh = starts(LOOP, family, jax.random.key(1), count)
        keys = jax.random.split(jax.random.key(2), (count, STEPS))
        arguments = trajectories, fresh, jax.random.key_data(keys)
        self.whole = (theta, family, *arguments)
        self.spread = (theta, family, *jax.tree.map(Devices(count).spread, arguments))

    def steps_a_second(self, functions: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """Of each, taking turns."""
        taken: dict[str, list[float]] = {name: [] for name in functions}
        for turn in range(TURNS + 1):
            for name, run in functions.items():
                began = time.perf_counter()
                jax.block_until_ready(run())
                if turn:  # the first one compiles
                    taken[name].append(time.perf_counter() - began)
        return {
            name: self.count * STEPS / statistics.median(times) for name, times in taken.items()
        }


def forward(unroll: Callable[..., jax.Array]) -> Any:
    """Losses of all trajectories."""
    return jax.jit(jax.vmap(unroll, (None, None, 0, 0, 0)))


def gradients(unroll: Callable[..., jax.Array]) -> Any:
    """Their meta-gradients, of each by itself: they are clipped before their mean."""
    return jax.jit(jax.vmap(jax.grad(unroll), (None, None, 0, 0, 0)))


WAYS = {
    "naive": (naive_unroll, False),
    "naive, spread": (naive_unroll, True),
    "celo2, one device": (product_unroll, False),
    "celo2": (product_unroll, True),
}
"""What is compared: an unroll, and whether its trajectories are spread over the cores."""


def measure(count: int) -> dict[str, float]:
    """Inner steps a second of each way, at so many trajectories."""
    unrolls = Unrolls(count)
    runs = {
        f"{way} {kind.__name__}": functools.partial(
            kind(unroll), *(unrolls.spread if spread else unrolls.whole)
        )
        for kind in (forward, gradients)
        for way, (unroll, spread) in WAYS.items()
    }
    for way in WAYS:
        np.testing.assert_allclose(runs["naive forward"](), runs[f"{way} forward"](), rtol=1e-4)
        for a, b in zip(runs["naive gradients"](), runs[f"{way} gradients"](), strict=True):
            np.testing.assert_allclose(
                a.mean(0), b.mean(0), atol=1e-2 * float(jnp.abs(a.mean(0)).max())
            )
    return unrolls.steps_a_second(runs)


@contextlib.contextmanager
def replaced(*changes: tuple[Any, str, Callable]) -> Iterator[None]:
    """Functions of modules, for a while: (module, name, function)."""
    before = [getattr(module, name) for module, name, _ in changes]
    try:
        for module, name, function in changes:
            setattr(module, name, function)
        yield
    finally:
        for (module, name, _), function in zip(changes, before, strict=True):
            setattr(module, name, function)


def no_newton_schulz(xp: Any, spec: Any, d: jax.Array) -> jax.Array:
    """The direction as it is."""
    return d


def no_mlp(xp: Any, theta: Weights, layer: rule.Channels, channels: rule.Channels) -> jax.Array:
    """A direction that needs all channels, normalized, and no MLP."""
    kinds: Any = [(w, kind) for w, kind in zip(layer, channels, strict=True) if kind]
    return sum(w[..., i, :1][..., None, :] * x for w, kind in kinds for i, x in enumerate(kind))  # type: ignore[return-value]


def no_rule(
    xp: Any,
    spec: Any,
    theta: Weights,
    accumulators: Accumulators,
    g: Any,
    p: Any,
    orthogonalize: Any,
) -> Any:
    """Gradient descent."""
    return theta.w0[0, 0] * g, accumulators


def profile() -> dict[str, dict[str, float]]:
    """Microseconds an inner step with gradients takes of all cores, by what is left of it; and how far from the arithmetic.

    Floating-point operations are XLA's count of the unoptimized program (rematerialization included); the machine's speed
    is that of products of 1024 x 1024 matrices on all devices.
    """
    unrolls = Unrolls(PROFILED)
    newton_schulz, mlp = (inner, "orthogonalize", no_newton_schulz), (rule, "direction", no_mlp)
    stages = {
        "all": [],
        "Newton-Schulz by autodiff": [(inner, "orthogonalize", rule.orthogonalize)],
        "without Newton-Schulz": [newton_schulz],
        "and without the MLP": [newton_schulz, mlp],
        "gradient descent": [(rule, "update", no_rule)],
    }
    compiled, operations = {}, 0.0
    for name, changes in stages.items():
        # jit keeps what it traced by the function, so each stage needs one of its own
        run = gradients(lambda *arguments: product_unroll(*arguments))
        with replaced(*changes):
            lowered = run.lower(*unrolls.spread)
            operations = operations or lowered.cost_analysis()["flops"] / unrolls.count
            compiled[name] = functools.partial(lowered.compile(), *unrolls.spread)
    speeds = unrolls.steps_a_second(compiled)
    return {
        "microseconds": {name: 1e6 / speed for name, speed in speeds.items()},
        "arithmetic": {
            "MFLOP an inner step": operations / 1e6,
            "GFLOP a second": operations * speeds["all"] / 1e9,
            "GFLOP a second of large products": products_speed() / 1e9,
        },
    }


def products_speed(n: int = 1024) -> float:
    """Floating-point operations a second of large matrix products, one on each device."""
    x = Devices(jax.device_count()).spread(jnp.ones((jax.device_count(), n, n)))
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(x))
    taken = []
    for _ in range(20):
        began = time.perf_counter()
        jax.block_until_ready(product(x))
        taken.append(time.perf_counter() - began)
    return 2 * n**3 * jax.device_count() / statistics.median(taken)


def main() -> None:
    """Measure, print, save."""
    use_cores(*TRAJECTORIES)
    results = {count: measure(count) for count in TRAJECTORIES}
    table = Table("trajectories", "", *WAYS, "celo2 / naive", title="inner steps a second")
    for count, speeds in results.items():
        for kind in ("forward", "gradients"):
            row = [speeds[f"{way} {kind}"] for way in WAYS]
            table.add_row(
                str(count), kind, *(f"{speed:,.0f}" for speed in row), f"{row[-1] / row[0]:.1f}"
            )
    console = Console()
    console.print(table)
    parts = profile()
    table = Table("", "", title=f"an inner step with gradients, {PROFILED} trajectories")
    for name, microseconds in parts["microseconds"].items():
        table.add_row(name, f"{microseconds:.0f} us")
    for name, number in parts["arithmetic"].items():
        table.add_row(name, f"{number:.1f}")
    console.print(table)
    path = Path("records/speed/meta-speed.json")
    path.parent.mkdir(exist_ok=True)
    content = {
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "steps a second": results,
        "profile": parts,
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
