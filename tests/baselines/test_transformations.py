"""Protects the use of Celo and VeLO as optax transformations.

What they need is asked for; jit, vmap, donation, bfloat16, traced weights and a traced number of
steps work.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from celo2 import InputError
from celo2.baselines import accumulators, celo, celo_adam, load_celo, load_velo, velo
from celo2.baselines.theta import Linear
from celo2.baselines.velo import tensor_features
from tests.baselines.golden import cases

pytestmark = pytest.mark.slow

STEPS = 20


@pytest.fixture(scope="module")
def small_velo(tmp_path_factory):
    path = tmp_path_factory.mktemp("velo") / "small.safetensors"
    save_file(cases("velo")[0].theta, path)
    return load_velo(path)


@pytest.fixture(scope="module", params=["celo", "celo_adam", "velo"])
def make(request, small_velo):
    """A function from a number of steps to an optimizer."""
    small = functools.partial(velo, theta=small_velo)
    by_name = {"celo": celo, "celo_adam": celo_adam, "velo": small}
    return by_name[request.param]


@pytest.fixture(scope="module")
def optimizer(make):
    """One optimizer whose update is compiled once for all tests."""
    made = make(STEPS)
    return optax.GradientTransformationExtraArgs(made.init, jax.jit(made.update))


def draw(seed, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = {"bias": (5,), "kernel": (4, 5), "scale": ()}
    named = zip(shapes.items(), keys, strict=True)
    return {name: jax.random.normal(key, shape, dtype) for (name, shape), key in named}


def run(optimizer, params, steps=2):
    """Parameters after steps on gradients that are drawn, with losses that fall."""
    state = optimizer.init(params)
    for t in range(steps):
        updates, state = optimizer.update(draw(100 + t), state, params, value=jnp.float32(2 - t))
        params = optax.apply_updates(params, updates)
    return params


def assert_close(a, b, rtol=1e-5, atol=1e-7):
    for pair in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = (np.asarray(each, np.float32) for each in pair)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def test_the_loss_is_asked_for(optimizer):
    params = draw(0)
    with pytest.raises(InputError, match=r"value is missing.*value=loss"):
        optimizer.update(params, optimizer.init(params), params)
    with pytest.raises(InputError, match=r"value has shape \(2,\).*scalar"):
        optimizer.update(params, optimizer.init(params), params, value=jnp.ones(2))


def test_the_parameters_are_asked_for(optimizer):
    params = draw(0)
    with pytest.raises(InputError, match="params is None"):
        optimizer.update(params, optimizer.init(params), value=1.0)


@pytest.mark.parametrize("num_steps", [0, -3, 1.5, "10", None])
def test_the_number_of_steps_is_checked(make, num_steps):
    with pytest.raises(InputError, match=r"num_steps is .*at least 1"):
        make(num_steps)


def test_leaves_that_cannot_be_optimized_are_refused(optimizer):
    with pytest.raises(InputError, match="int32; only real floats"):
        optimizer.init({"a": jnp.arange(3)})
    with pytest.raises(InputError, match="empty"):
        optimizer.init({"a": jnp.ones((0, 3))})


def test_python_floats_are_leaves_too(optimizer):
    params = {"temperature": 1.0}
    updates, _ = optimizer.update(params, optimizer.init(params), params, value=1.0)
    assert updates["temperature"].shape == ()


def test_no_operand_is_broadcast_to_more_axes_by_accident(make):
    optimizer, params = make(STEPS), draw(0)
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p, value=1.0), params)


def test_later_steps_do_not_compile_again(make):
    optimizer, traces = make(STEPS), []

    @jax.jit
    def update(*args, value):
        traces.append(args)
        return optimizer.update(*args, value=value)

    run(optax.GradientTransformationExtraArgs(optimizer.init, update), draw(0), steps=3)
    assert len(traces) == 1


def test_vmap_over_seeds_gives_the_separate_runs(optimizer):
    seeds = [draw(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *seeds)
    together = jax.vmap(lambda params: run(optimizer, params))(stacked)
    for i, params in enumerate(seeds):
        assert_close(jax.tree.map(lambda x, i=i: x[i], together), run(optimizer, params))


def test_state_can_be_donated(make, optimizer):
    """An unusable donated buffer warns, and warnings are errors."""
    update = jax.jit(make(STEPS).update, donate_argnums=1)
    donating = optax.GradientTransformationExtraArgs(optimizer.init, update)
    assert_close(run(donating, draw(0)), run(optimizer, draw(0)))


def test_bfloat16_parameters_get_the_float32_update_rounded(optimizer):
    params, grads = draw(0, jnp.bfloat16), draw(1, jnp.bfloat16)
    state = optimizer.init(params)
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}
    updates, _ = optimizer.update(grads, state, params, value=jnp.float32(1))
    wide, wide_params = jax.tree.map(lambda x: x.astype(jnp.float32), (grads, params))
    expected, _ = optimizer.update(wide, state, wide_params, value=jnp.float32(1))
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}
    assert_close(updates, expected, rtol=2**-8, atol=0)


def test_the_number_of_steps_may_be_traced(make, optimizer):
    traced = jax.jit(lambda n: run(make(n), draw(0)))
    assert_close(traced(jnp.asarray(STEPS)), run(optimizer, draw(0)))


def test_chained_with_other_transformations(optimizer):
    """The only knob: a factor behind the optimizer."""
    params = draw(0)
    half = optax.chain(optimizer, optax.scale(0.5))
    whole, _ = optimizer.update(draw(1), optimizer.init(params), params, value=jnp.float32(1))
    halved, _ = half.update(draw(1), half.init(params), params, value=jnp.float32(1))
    assert_close(halved, jax.tree.map(lambda u: u / 2, whole))


def after_a_bad_gradient(optimizer):
    """The updates of a step that follows one with NaN in one leaf."""
    params = draw(0)
    bad = draw(1) | {"bias": jnp.full(5, jnp.nan)}
    _, state = optimizer.update(bad, optimizer.init(params), params, value=jnp.float32(1))
    return optimizer.update(draw(2), state, params, value=jnp.float32(1))[0]


def test_a_gradient_that_is_not_finite_stays_in_the_state_as_in_the_authors_code(optimizer):
    assert np.isnan(after_a_bad_gradient(optimizer)["bias"]).all()


def test_optax_can_skip_gradients_that_are_not_finite(optimizer):
    updates = after_a_bad_gradient(optax.apply_if_finite(optimizer, max_consecutive_errors=3))
    assert all(np.isfinite(u).all() for u in jax.tree.leaves(updates))


def test_derivative_of_celos_update_with_respect_to_its_weights():
    """The step size is 0.1 exp(. + b), so the derivative with respect to b is the update itself."""
    optimizer, params, theta = celo(STEPS), draw(0), load_celo("celo")

    @jax.jit
    def total(weights):
        updates, _ = optimizer.update(
            draw(1), optimizer.init(params), params, value=1.0, weights=weights
        )
        return sum(jnp.sum(u) for u in jax.tree.leaves(updates))

    value, slope = jax.value_and_grad(total)(theta)
    np.testing.assert_allclose(slope.scheduler.step_size.b[0], value, rtol=1e-5)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))
    assert np.any(slope.scheduler.hidden)  # the learned first state takes part


def test_derivative_of_velos_update_with_respect_to_its_weights(small_velo):
    """The step size is linear in b, one b for all tensors."""
    optimizer, params = velo(STEPS, small_velo), draw(0)

    @jax.jit
    def total(weights):
        updates, _ = optimizer.update(
            draw(1), optimizer.init(params), params, value=1.0, weights=weights
        )
        return sum(jnp.sum(u) for u in jax.tree.leaves(updates))

    def shifted(by):
        layer = small_velo.recurrent.step_size
        layer = layer._replace(b=layer.b + by)
        return small_velo._replace(recurrent=small_velo.recurrent._replace(step_size=layer))

    slope = jax.grad(total)(small_velo)
    np.testing.assert_allclose(
        slope.recurrent.step_size.b[0], total(shifted(1)) - total(shifted(0)), rtol=1e-3
    )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))


def test_velos_step_size_may_be_negative(small_velo):
    """With zero weights the step size is its bias, so its sign turns every update around."""
    params = draw(0)

    def update(bias):
        weight = np.zeros_like(small_velo.recurrent.step_size.w)
        layer = Linear(weight, np.array([bias], np.float32))
        theta = small_velo._replace(recurrent=small_velo.recurrent._replace(step_size=layer))
        optimizer = velo(STEPS, theta)
        return optimizer.update(draw(1), optimizer.init(params), params, value=1.0)[0]

    assert_close(update(2.0), jax.tree.map(jnp.negative, update(-2.0)))


@pytest.mark.parametrize(
    ("shape", "rank"),
    [((), 0), ((1, 8), 1), ((2, 1, 3), 2), ((2, 2, 2, 2), 4), ((2, 2, 2, 2, 2), None)],
)
def test_what_velo_knows_of_a_tensor_before_its_first_gradient(shape, rank):
    """Statistics of zeros are -2.5, and the rank counts axes longer than one up to four."""
    p = jnp.ones(shape)
    one_hot = np.zeros(5) if rank is None else np.eye(5)[rank]
    expected = np.concatenate([[-2.5], one_hot, np.full(6, -2.5)])
    np.testing.assert_allclose(tensor_features(accumulators.init(p), p), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["celo", "velo"])
def test_a_tensor_of_zeros_starts_slowly(name, small_velo):
    """Steps are relative to the size of a tensor, 3.2e-5 for zeros."""
    optimizer = celo(STEPS) if name == "celo" else velo(STEPS, small_velo)
    params = {"ones": jnp.ones(8), "zeros": jnp.zeros(8)}
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params, value=1.0)
    assert 0 < np.max(np.abs(updates["zeros"])) < 1e-3 * np.max(np.abs(updates["ones"]))
