"""Protects state in bfloat16: the bits of PyTorch's front end, right on average."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from celo2.jax import MatrixAxes, scale_by_celo2, stochastic_rounding
from celo2.torch import Celo2
from celo2.torch import stochastic_rounding as torch_rounding
from tests.cases import THETA, draw


@pytest.mark.parametrize("transposed", [False, True])
def test_bits_are_those_of_torch(transposed):
    x = np.random.default_rng(0).standard_normal((4, 6, 10)).astype(np.float32)
    a, b = (10, 6) if transposed else (6, 10)
    rows, columns = (torch.arange(n, dtype=torch.int32) for n in (a, b))
    theirs = torch_rounding.noise(torch.tensor(7), rows[:, None], columns[None])
    state = [torch.zeros(6, 10, dtype=torch.bfloat16) for _ in x]
    new = [torch.from_numpy(each) for each in x]
    torch_rounding.store(state, new, torch.tensor(True), theirs.mT if transposed else theirs)
    ours = stochastic_rounding.noise(jnp.int32(7), 6, 10, transposed)
    found = stochastic_rounding.rounded(jnp.asarray(x)[:, None], ours)[:, 0]
    np.testing.assert_array_equal(found, torch.stack(state).float().numpy())
    np.testing.assert_array_equal(found, jnp.asarray(found, jnp.bfloat16))


def test_rounding_is_right_on_average():
    """A third of the way from 1 to the next bfloat16, over 40,000 elements."""
    x = jnp.full((1, 1, 200, 200), 1 + 2**-7 / 3)
    noise = stochastic_rounding.noise(jnp.int32(1), 200, 200, False)
    up = float(jnp.mean(stochastic_rounding.rounded(x, noise) > 1))
    assert up == pytest.approx(1 / 3, abs=4 * (2 / 9 / 40_000) ** 0.5)


def test_a_run_with_state_in_bfloat16_is_that_of_torch():
    """Bit for bit in the first step; later roundings may differ where float32 sums do."""
    w, grads = draw((9, 5), steps=4)
    optimizer = optax.chain(
        scale_by_celo2(THETA, axes=MatrixAxes(), state_dtype=jnp.bfloat16), optax.scale(-0.01)
    )
    p, q = jnp.asarray(w), torch.nn.Parameter(torch.from_numpy(w.copy()))
    state, step = optimizer.init(p), jax.jit(optimizer.update)
    theirs = Celo2(
        [{"params": [q], "rule": "celo2", "axes": (-2, -1)}],
        lr=0.01, theta=THETA, state_dtype=torch.bfloat16, weight_decay=0.0,
    )  # fmt: skip
    for i, g in enumerate(grads):
        updates, state = step(jnp.asarray(g), state, p)
        p = optax.apply_updates(p, updates)
        q.grad = torch.from_numpy(np.array(g))
        theirs.step()
        equal = state[0].averages == theirs.state[q]["averages"].float().numpy()
        assert equal.all() if i == 0 else equal.mean() > 0.9
    assert state[0].averages.dtype == jnp.bfloat16
    np.testing.assert_allclose(p, q.detach().numpy(), rtol=0, atol=1e-3)
