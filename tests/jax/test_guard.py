"""Protects the guard in JAX: PyTorch's numbers, also under jit, sharded and in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec

from celo2 import InputError, MatrixAxes, Theta
from celo2.jax import celo2, scale_by_celo2
from celo2.torch import Celo2
from tests.cases import draw

THETA = Theta.random(1)
KAPPA = 0.3


def updates(transform, w, grads, place=jnp.asarray):
    """The updates of one leaf, and the state after the last."""
    step = jax.jit(transform.update)
    p, found = place(w), []
    state = transform.init(p)
    for g in grads:
        u, state = step(place(g), state, p)
        found.append(np.asarray(u, np.float32))
    return found, state


@pytest.mark.parametrize("orthogonalize", [True, False])
def test_torch_and_jax_agree(orthogonalize):
    """Four matrices in one leaf, of which the guard pushes some."""
    w, grads = draw((4, 6, 8), steps=5)
    options = {"theta": THETA, "guard": KAPPA, "orthogonalize": orthogonalize}
    found, state = updates(scale_by_celo2(**options), w, grads)
    p = torch.nn.Parameter(torch.from_numpy(w.copy()))
    group = {"params": [p], "rule": "celo2", "axes": (-2, -1)}
    optimizer = Celo2([group], lr=1.0, **options)
    for g, u in zip(grads, found, strict=True):
        with torch.no_grad():
            p.copy_(torch.from_numpy(w))
        p.grad = torch.from_numpy(g.copy())
        optimizer.step()
        np.testing.assert_allclose(w - u, p.detach().numpy(), rtol=0, atol=1e-4)
    assert int(state.pushed) == round(20 * optimizer.guard_rate()) > 0


def test_sharded_is_equal_to_local():
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec(None, "devices"))
    w, grads = draw((6, 16), steps=3)
    transform = scale_by_celo2(THETA, guard=KAPPA)
    local, state = updates(transform, w, grads)
    sharded, other = updates(transform, w, grads, lambda x: jax.device_put(x, spread))
    np.testing.assert_allclose(local, sharded, rtol=0, atol=1e-4)
    assert int(state.pushed) == int(other.pushed) > 0


def test_bfloat16_leaves_have_the_cosine_to_their_momentum():
    w, grads = draw((6, 16), steps=3)
    found, state = updates(
        scale_by_celo2(THETA, guard=KAPPA), w, grads, lambda x: jnp.asarray(x, jnp.bfloat16)
    )
    m = np.asarray(state.averages[0])
    cosine = np.sum(found[-1] * m) / np.linalg.norm(found[-1]) / np.linalg.norm(m)
    assert int(state.pushed) > 0
    assert cosine > KAPPA - 5e-3


def test_it_is_an_option_of_the_optimizer_too():
    w, grads = draw((6, 16), steps=1)
    params = {"hidden": jnp.asarray(w)}
    optimizer = celo2(1.0, theta=THETA, guard=0.9, axes=MatrixAxes())
    update = jax.jit(optimizer.update)
    u, _ = update({"hidden": jnp.asarray(grads[0])}, optimizer.init(params), params)
    u, m = -np.asarray(u["hidden"]), grads[0]
    cosine = np.sum(u * m) / np.linalg.norm(u) / np.linalg.norm(m)
    np.testing.assert_allclose(cosine, 0.9, atol=1e-5)
    with pytest.raises(InputError, match="guard is -1; give a number between 0 and 1, or None"):
        celo2(1.0, guard=-1)
