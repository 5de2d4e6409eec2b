"""Protects the numbers of Celo, Celo-Adam and VeLO: updates are those of the authors' code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from celo2.baselines import celo, celo_adam, celo_mlp, load_celo, load_velo, velo
from tests.baselines.golden import cases

pytestmark = pytest.mark.slow

CASES = [*cases("celo"), *cases("celo_digits"), *cases("velo")]


def make(case, path):
    save_file(case.theta, path)
    if case.file == "velo":
        return velo(case.num_steps, load_velo(path))
    if case.get("adam", False):
        return celo_adam(case.num_steps, load_celo(path))
    if case.get("phase", 2) == 1:
        return celo_mlp(load_celo(path))
    return celo(case.num_steps, load_celo(path))


def replay(optimizer, case, dtype):
    """The updates of each step, on the recorded gradients and on the optimizer's own parameters."""
    params = {name: jnp.asarray(w, dtype) for name, w in case.tree("params0").items()}
    grads = {name: jnp.asarray(g, dtype) for name, g in case.tree("grads").items()}

    def step(carry, x):
        params, state = carry
        g, loss = x
        updates, state = optimizer.update(g, state, params, value=loss)
        params = jax.tree.map(jnp.add, params, updates)
        return (params, state), jax.tree.map(jnp.negative, updates)

    scan = jax.jit(lambda carry, xs: jax.lax.scan(step, carry, xs)[1])
    updates = scan((params, optimizer.init(params)), (grads, jnp.asarray(case.losses, dtype)))
    return [{name: u[t] for name, u in updates.items()} for t in range(len(case.losses))]


def float32_tolerance(case):
    """What float32 can hold; the nearly flat loss of the long run on digits is ill-conditioned."""
    if case.file == "celo_digits":
        return 1e-4 if case.num_steps == 10 else 2e-2
    return 2e-3


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("bits", [32, 64])
def test_updates_are_those_of_the_authors_implementation(case, bits, tmp_path):
    with jax.enable_x64(bits == 64):
        updates = replay(make(case, tmp_path / "theta.safetensors"), case, np.dtype(f"float{bits}"))
    assert case.distances(updates).max() < (1e-10 if bits == 64 else float32_tolerance(case))
