"""Inner steps a second of meta-training, against a direct vmap of the rule as the paper writes it.

Run: python benchmarks/meta_speed.py. The naive twin spreads all 30 channels over every matrix, channels last, normalises
each of them, and keeps what backpropagation needs; it computes the same losses and gradients, which is checked before
anything is timed. Both run in one process, taking turns; the table shows medians. Writes results/meta-speed.json.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from celo2 import rule
from celo2.data.offline import offline_sets
from celo2.meta import inner
from celo2.meta.estimators.base import first_starts, starts
from celo2.rule import Accumulators, Weights
from celo2.tasks.image_sets import ImageSets
from celo2.tasks.mlp import ImageMLP
from celo2.theta import Theta
from celo2.views import MatrixAxes, pieces

TRAJECTORIES, STEPS, TURNS = (8, 16, 64), 50, 5
LOOP = inner.InnerLoop(horizon=(2000, 2000), staggered=False)


def naive_update(theta: Weights, acc: Accumulators, g: jax.Array, p: jax.Array) -> tuple[jax.Array, Accumulators]:
    """The rule on one matrix (a, b), channels last."""
    spec = LOOP.spec
    g = jnp.clip(g, -spec.gradient_clip, spec.gradient_clip)
    acc = rule.accumulate(jnp, spec, acc, g)
    m, v, (r, c) = acc
    s = 1 / jnp.sqrt(v + 1e-8)
    f = 1 / jnp.sqrt(jnp.maximum(r / (r.mean(-2, keepdims=True) + 1e-9), 1e-9)) / jnp.sqrt(jnp.maximum(c, 1e-9))
    full = functools.partial(jnp.broadcast_to, shape=m.shape)
    stacks = [m, m * s, g * f, full(r), full(c), full(1 / jnp.sqrt(r + 1e-8)), full(1 / jnp.sqrt(c + 1e-8)), m * f]
    ms, mss, gf, rs, cs, ir, ic, mf = stacks
    channels = [g, jnp.clip(g, -0.1, 0.1), p, *ms, v, *mss, s, *gf, g * s, *rs, *cs, *ir, *ic, *mf]
    x = jnp.stack(channels, -1)
    x = x / jnp.sqrt(1e-9 + jnp.mean(x * x, (0, 1), keepdims=True))
    h = jax.nn.relu(x @ theta.w0 + theta.b0)
    d = (jax.nn.relu(h @ theta.w1 + theta.b1) @ theta.w2 + theta.b2)[..., 0]
    d = rule.orthogonalize(jnp, spec, d)
    return d / jnp.sqrt(1e-9 + jnp.mean(d * d)), acc


def naive_unroll(family: ImageMLP, theta: Weights, trajectory: inner.Trajectory, keys: jax.Array) -> jax.Array:
    """Mean loss of one trajectory; everything backpropagation needs is kept."""

    def step(carry: Any, key: jax.Array) -> Any:
        params, statistics = carry
        batch = family.batch(jax.random.split(key)[0], trajectory.task)
        loss, grads = jax.value_and_grad(family.loss)(params, trajectory.task, batch)
        new_params, new_statistics = {}, {}
        for name, p in params.items():
            if p.ndim < 2:
                update, new_statistics[name] = inner._adam(statistics[name], grads[name])
                update = LOOP.adamw_lr_multiplier * update
            else:
                (part,) = pieces(p.shape, MatrixAxes())
                view_g, view_p = part.view(jnp, grads[name]), part.view(jnp, p)
                update, new_statistics[name] = naive_update(theta, statistics[name], view_g, view_p)
                update = part.inverse(jnp, update)
            new_params[name] = p - trajectory.learning_rate * update
        return (new_params, new_statistics), loss

    return jax.lax.scan(step, (trajectory.params, trajectory.statistics), keys)[1].mean()


def product_unroll(
    family: ImageMLP, theta: Weights, trajectory: inner.Trajectory, fresh: inner.Trajectory, keys: jax.Array
) -> jax.Array:
    """Mean loss of one trajectory, as meta-training computes it."""
    return inner.unroll(LOOP, family, theta, trajectory, fresh, keys)[0].loss.mean()


def seconds(run: Callable[[], Any]) -> float:
    """Of one call, to its end."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def measure(count: int) -> dict[str, float]:
    """Inner steps a second of both, forward and with gradients, at so many trajectories."""
    family = ImageMLP(ImageSets.of(offline_sets(0, 2048)))
    theta = Weights(*map(jnp.asarray, Theta.random(0).weights))
    trajectories = first_starts(LOOP, family, jax.random.key(0), count)
    fresh = starts(LOOP, family, jax.random.key(1), count)
    keys = jax.random.split(jax.random.key(2), (count, STEPS))

    def naive(theta: Weights) -> jax.Array:
        return jax.vmap(lambda t, k: naive_unroll(family, theta, t, k))(trajectories, keys).mean()

    def product(theta: Weights) -> jax.Array:
        return jax.vmap(lambda t, f, k: product_unroll(family, theta, t, f, k))(trajectories, fresh, keys).mean()

    runs = {"naive forward": jax.jit(naive), "celo2 forward": jax.jit(product)}
    runs |= {"naive gradients": jax.jit(jax.grad(naive)), "celo2 gradients": jax.jit(jax.grad(product))}
    np.testing.assert_allclose(runs["naive forward"](theta), runs["celo2 forward"](theta), rtol=1e-5)
    for a, b in zip(runs["naive gradients"](theta), runs["celo2 gradients"](theta), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-2 * float(jnp.abs(b).max()))
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS + 1):
        for name, run in runs.items():
            elapsed = seconds(lambda run=run: run(theta))
            if turn:  # the first one compiles
                taken[name].append(elapsed)
    return {name: count * STEPS / statistics.median(times) for name, times in taken.items()}


def main() -> None:
    """Measure, print, save."""
    results = {count: measure(count) for count in TRAJECTORIES}
    table = Table("trajectories", "", "naive", "celo2", "ratio", title="inner steps a second")
    for count, speeds in results.items():
        for kind in ("forward", "gradients"):
            naive, ours = speeds[f"naive {kind}"], speeds[f"celo2 {kind}"]
            table.add_row(str(count), kind, f"{naive:,.0f}", f"{ours:,.0f}", f"{ours / naive:.1f}")
    Console().print(table)
    path = Path("results/meta-speed.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"cores": os.cpu_count(), "jax": jax.__version__, "steps a second": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
