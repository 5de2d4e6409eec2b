"""Protects sharded parameters: on automatic and explicit meshes the numbers of one device, whatever
is sharded; on explicit ones updates and state lie where their parameters do."""

import functools

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from celo2.jax import scale_by_celo2
from tests.cases import REFERENCE, THETA, draw
from tests.oracle import oracle_steps

LAYOUTS = {
    "rows": ((8, 16), P("x")),
    "columns": ((8, 16), P(None, ("x", "y"))),
    "both": ((8, 16), P("y", "x")),
    "replicated": ((8, 16), P()),
    "stacked layers": ((8, 4, 6), P(("x", "y"))),
}
KINDS = {"automatic": AxisType.Auto, "explicit": AxisType.Explicit}


def make_mesh(kind):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(KINDS[kind],) * 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_gives_the_numbers_of_one_device(kind):
    mesh = make_mesh(kind)
    drawn = {}
    for i, (name, (shape, _)) in enumerate(LAYOUTS.items()):
        drawn[name] = draw(shape, steps=2, seed=i)
    optimizer = optax.chain(scale_by_celo2(THETA), optax.scale(-0.01))

    shardings = {name: NamedSharding(mesh, spec) for name, (_, spec) in LAYOUTS.items()}
    # On an automatic mesh the compiler chooses where results lie, unless it is told.
    told = {"out_shardings": (shardings, None)} if kind == "automatic" else {}

    def placed(arrays):
        return jax.device_put(arrays, shardings)

    @functools.partial(jax.jit, **told)
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    with jax.set_mesh(mesh):
        params = placed({name: w for name, (w, _) in drawn.items()})
        state = optimizer.init(params)  # under jit, zeros know no sharding on an automatic mesh
        for i in range(2):
            params, state = step(params, state, placed({n: g[i] for n, (_, g) in drawn.items()}))
    for name, (w, grads) in drawn.items():
        _, expected = oracle_steps(REFERENCE, grads, w, True)
        np.testing.assert_allclose(params[name], expected[-1], rtol=0, atol=1e-5, err_msg=name)
        lies = LAYOUTS[name][1]
        assert params[name].sharding.is_equivalent_to(NamedSharding(mesh, lies), w.ndim), name
        if kind == "explicit":
            momentum = NamedSharding(mesh, P(None, *lies))
            assert state[0].averages[name].sharding.is_equivalent_to(momentum, w.ndim + 1), name


def test_muon_of_optax_fails_on_an_explicit_mesh():
    """What the docs say of it; delete the sentence when this fails."""
    mesh = make_mesh("explicit")
    w = jax.device_put(np.ones((16, 8), np.float32), NamedSharding(mesh, P("x", "y")))
    muon = optax.contrib.muon(1e-3)
    with pytest.raises(Exception, match="Contracting dimensions are sharded"):
        muon.update(w, muon.init(w), w)
