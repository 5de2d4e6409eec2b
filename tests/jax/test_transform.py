"""Protects the optax front end: the oracle's numbers, and what users do with transforms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from celo2 import InputError, MatrixAxes
from celo2.jax import celo2, route, scale_by_celo2
from celo2.torch import Celo2
from tests.cases import REFERENCE, SHAPES, THETA, draw
from tests.oracle import oracle_steps

make = functools.partial(celo2, theta=THETA)


@functools.cache
def compiled(optimizer):
    """A step of an optimizer, compiled once for all runs of the same one."""

    @jax.jit
    def step(p, state, g):
        updates, state = optimizer.update(g, state, p)
        return optax.apply_updates(p, updates), state

    return step


def train(optimizer, w, grads):
    step = compiled(optimizer)
    p, state = jnp.asarray(w), optimizer.init(jnp.asarray(w))
    for g in grads:
        p, state = step(p, state, jnp.asarray(g))
    return p, state


@functools.cache
def decaying(orthogonalize):
    """The same optimizer for several tests, so that its step is compiled once per shape."""
    return make(
        0.01, weight_decay=0.1, orthogonalize=orthogonalize, labels="celo2", axes=MatrixAxes()
    )


@pytest.mark.parametrize("orthogonalize", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_parameters_after_twenty_steps_with_weight_decay(name, orthogonalize):
    w, grads = draw(SHAPES[name])
    p, _ = train(decaying(orthogonalize), w, grads)
    decay = 0.1 if w.ndim > 1 else 0.0
    _, expected = oracle_steps(REFERENCE, grads, w, orthogonalize, weight_decay=decay)
    np.testing.assert_allclose(p, expected[-1], rtol=0, atol=1e-5)


def test_scale_by_celo2_is_the_direction_and_celo2_the_policy():
    w, grads = draw((6, 4), steps=1)
    direction = scale_by_celo2(THETA)
    u, _ = jax.jit(direction.update)(grads[0], direction.init(jnp.asarray(w)), w)
    p, _ = train(make(0.01, labels="celo2"), w, grads)
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(u))), 1, rtol=1e-4)
    np.testing.assert_allclose(p, w - 0.01 * np.asarray(u), atol=1e-6)


def test_axes_stated_for_one_leaf():
    """Equinox keeps (out, in)."""
    w, grads = draw((4, 6))
    params = {"a": w.T.copy(), "b": w}
    axes = {"a": MatrixAxes(fan_in=1, fan_out=0), "b": None}
    p, _ = train_tree(make(0.01, axes=axes), params, [{"a": g.T.copy(), "b": g} for g in grads])
    _, expected = oracle_steps(REFERENCE, grads, w, True)
    np.testing.assert_allclose(p["b"], expected[-1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(p["a"], expected[-1].T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_torch_and_jax_agree(name):
    """Directly, in float32, to 1e-5 after twenty steps with weight decay."""
    w, grads = draw(SHAPES[name])
    p, _ = train(decaying(True), w, grads)
    axes = {"axes": (-2, -1)} if w.ndim > 1 else {}
    q = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimizer = Celo2(
        [{"params": [q], "rule": "celo2", **axes}], lr=0.01, weight_decay=0.1, theta=THETA
    )
    for g in grads:
        q.grad = torch.from_numpy(np.array(g))
        optimizer.step()
    np.testing.assert_allclose(p, q.detach().numpy(), rtol=0, atol=1e-5)


def train_tree(optimizer, params, grads):
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)
    step = jax.jit(optimizer.update)
    for g in grads:
        updates, state = step(jax.tree.map(jnp.asarray, g), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_unequal_splits_are_matrices_of_their_own():
    sizes = (12, 4, 4)
    parts = [draw((6, size), seed=i) for i, size in enumerate(sizes)]
    w, grads = (np.concatenate(x, axis=-1) for x in zip(*parts, strict=True))
    p, _ = train(make(0.01, labels="celo2", axes=MatrixAxes(split_sizes=sizes)), w, grads)
    expected = [oracle_steps(REFERENCE, g, part, True)[1][-1] for part, g in parts]
    np.testing.assert_allclose(p, np.concatenate(expected, axis=-1), rtol=0, atol=1e-5)


def parabola(shape):
    target = jax.random.normal(jax.random.key(0), shape)
    return jnp.zeros(shape), lambda x: jnp.sum(jnp.square(x - target))


def rosenbrock():
    return jnp.zeros((1, 2)), lambda x: jnp.sum(
        (1 - x[0, 0]) ** 2 + 100 * (x[0, 1] - x[0, 0] ** 2) ** 2
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "bound"),
    [(parabola((1, 6)), 1e-2), (parabola((5, 3)), 1e-2), (rosenbrock(), 1e-1)],
    ids=["parabola", "matrix parabola", "Rosenbrock"],
)
def test_converges(problem, bound):
    """Under a decaying learning rate, since every step has its size.

    Momentum alone is theta here: a known good direction.
    """
    start, loss = problem
    steps = 3000
    optimizer = make(
        optax.cosine_decay_schedule(0.03, steps), theta=momentum_theta(), labels="celo2"
    )

    def body(carry, _):
        p, state = carry
        updates, state = optimizer.update(jax.grad(loss)(p), state, p)
        return (optax.apply_updates(p, updates), state), None

    (p, _), _ = jax.jit(lambda c: jax.lax.scan(body, c, length=steps))(
        (start, optimizer.init(start))
    )
    assert loss(p) < bound * loss(start)


def momentum_theta():
    """A theta written by hand that passes M_0.9 through a pair of ReLU units: Muon's direction."""
    from celo2 import Theta
    from celo2.rule import Weights

    weights = Weights(*(np.zeros_like(w) for w in THETA.weights))
    weights.w0[3, :2] = 1, -1
    weights.w1[[0, 1], [0, 1]] = 1
    weights.w2[:2, 0] = 1, -1
    return Theta(weights, name="momentum")


def test_extra_arguments_are_taken():
    optimizer = optax.chain(make(1e-3))
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
    update = functools.partial(optimizer.update, value=1.0, other="x")
    jax.eval_shape(update, params, optimizer.init(params), params)


def test_inject_hyperparams_equals_the_plain_optimizer():
    w, grads = draw((6, 4), steps=3)
    injected = optax.inject_hyperparams(make, static_args=("labels", "theta"))(
        learning_rate=0.01, labels="celo2", theta=THETA
    )
    p, state = train(injected, w, grads)
    q, _ = train(make(0.01, labels="celo2"), w, grads)
    np.testing.assert_allclose(p, q, atol=1e-6)
    assert float(state.hyperparams["learning_rate"]) == pytest.approx(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtypes_and_shapes_of_updates_and_state_are_stable_inside_scan(dtype):
    params = {
        "w": jnp.ones((3, 4), dtype),
        "b": jnp.array([0, 1e-5, 0.1, 1], dtype),
        "taps": jnp.ones((3, 3, 2, 5), dtype),
    }
    optimizer = make(1e-3, weight_decay=0.1)

    def body(carry, _):
        p, state = carry
        updates, state = optimizer.update(p, state, p)
        return (optax.apply_updates(p, updates), state), None

    (p, _), _ = jax.lax.scan(body, (params, optimizer.init(params)), length=3)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(p))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), p) == jax.tree.map(
        lambda x: (x.shape, x.dtype), params
    )
    hidden = scale_by_celo2(THETA)
    assert all(
        leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(hidden.init(params))
    )


def test_multi_steps_averages_gradients():
    w, grads = draw((6, 4), steps=4)
    p, _ = train(optax.MultiSteps(make(0.01, labels="celo2"), 2), w, grads)
    q, _ = train(make(0.01, labels="celo2"), w, grads.reshape(2, 2, 6, 4).mean(1))
    np.testing.assert_allclose(p, q, atol=1e-5)


def test_empty_trees_masked_nodes_and_empty_leaves():
    optimizer = make(1e-3)
    assert optimizer.update({}, optimizer.init({}), {})[0] == {}
    params = {"w": jnp.ones((3, 4)), "none": None, "empty": jnp.ones((0, 4))}
    masked = optax.masked(scale_by_celo2(THETA), {"w": True, "none": None, "empty": False})
    updates, _ = jax.jit(masked.update)(params, masked.init(params), params)
    assert updates["w"].shape == (3, 4)
    updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    assert updates["empty"].shape == (0, 4)


def test_params_none_is_a_clear_error():
    optimizer = scale_by_celo2(THETA)
    params = jnp.ones((3, 4))
    with pytest.raises(
        InputError,
        match=r"params is None, but the Celo2 rule reads the weights; "
        r"call update\(grads, state, params\)",
    ):
        optimizer.update(params, optimizer.init(params))


def test_jit_with_donation_and_no_second_compilation():
    optimizer = make(optax.linear_schedule(1e-3, 0, 10))
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(p, state, g):
        updates, state = optimizer.update(g, state, p)
        return optax.apply_updates(p, updates), state

    grads = {"w": jnp.full((3, 4), 0.5), "b": jnp.ones(4)}
    state = optimizer.init(params)
    for _ in range(3):
        params, state = step(params, state, grads)
    assert step._cache_size() == 1


def test_vmap_is_a_loop():
    w, grads = draw((4, 3, 5), steps=1)
    optimizer = scale_by_celo2(THETA)

    @jax.jit
    def one(p, g):
        return optimizer.update(g, optimizer.init(p), p)[0]

    together = jax.vmap(one)(w, grads[0])
    alone = jnp.stack(
        [one(jnp.asarray(p), jnp.asarray(g)) for p, g in zip(w, grads[0], strict=True)]
    )
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_moves_nothing_but_the_others(bad):
    params = {"hurt": jnp.ones((3, 4)), "well": jnp.ones((3, 4))}
    optimizer = scale_by_celo2(THETA)
    update = jax.jit(optimizer.update)
    grads = jax.tree.map(lambda x: x * 0.1, params)
    _, state = update(grads, optimizer.init(params), params)
    spoiled = {**grads, "hurt": grads["hurt"].at[1, 1].set(bad)}
    updates, after = update(spoiled, state, params)
    assert not updates["hurt"].any()
    assert updates["well"].all()
    for new, old in zip(after[:3], state[:3], strict=True):
        np.testing.assert_array_equal(new["hurt"], old["hurt"])
    assert int(after.skipped) == 1


def test_the_alias_moves_no_leaf_whose_gradient_is_not_finite():
    """Neither rule, no weight decay, and no accumulator; only counts of steps go on."""
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4), "embed": jnp.ones((5, 4))}
    optimizer = make(1e-3, weight_decay=0.1)
    update = jax.jit(optimizer.update)
    good = jax.tree.map(lambda x: 0.1 * x, params)
    _, state = update(good, optimizer.init(params), params)
    bad = jax.tree.map(lambda x: x * jnp.nan, params)
    updates, after = update(bad, state, params)
    assert not any(u.any() for u in jax.tree.leaves(updates))
    moments = [
        (a, b)
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True)
        if a.ndim
    ]
    assert len(moments) > 6
    for a, b in moments:
        np.testing.assert_array_equal(a, b)
    updates, _ = update(good, after, params)
    assert all(jnp.isfinite(u).all() and u.all() for u in jax.tree.leaves(updates))


def test_the_adamw_part_is_the_adamw_of_optax():
    """Its update has the multiplied learning rate, its weight decay the base one."""
    w, grads = draw((5, 3))
    p, _ = train(make(1e-3, weight_decay=0.1, labels="adamw"), w, grads)
    q, _ = train(optax.adamw(2e-2, b1=0.9, b2=0.95, weight_decay=0.1 / 20), w, grads)
    np.testing.assert_allclose(p, q, rtol=0, atol=1e-6)


def test_weight_decay_spares_biases_and_norms_unless_asked():
    params = {"w": jnp.ones((3, 3)), "norm": {"scale": jnp.ones((1, 3))}, "bias": jnp.ones(3)}
    zeros = jax.tree.map(jnp.zeros_like, params)

    def after(**options):
        optimizer = make(0.1, weight_decay=0.5, **options)
        updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    np.testing.assert_allclose(after()["w"], 0.95)
    np.testing.assert_array_equal(after()["bias"], 1.0)
    np.testing.assert_array_equal(after()["norm"]["scale"], 1.0)
    np.testing.assert_allclose(after(weight_decay_mask=True)["bias"], 0.95)


def test_a_matrix_without_gradient_stays_with_its_statistics():
    """Of two experts one had no tokens; without the option it moves on at full RMS."""
    w, grads = draw((2, 6, 4), steps=3)
    idle = grads.copy()
    idle[1:, 1] = 0
    skipping, moving = (scale_by_lr(skip_zero_gradients=skip) for skip in (True, False))
    p, state = train(skipping, w, idle)
    once, after_one = train(skipping, w, idle[:1])
    both, _ = train(skipping, w, grads)
    np.testing.assert_array_equal(p[1], once[1])
    np.testing.assert_array_equal(state[0].averages[:, 1], after_one[0].averages[:, 1])
    np.testing.assert_array_equal(p[0], both[0])
    after_three, after_two = (train(moving, w, idle[:steps])[0] for steps in (3, 2))
    step = np.asarray(after_three[1] - after_two[1])
    np.testing.assert_allclose(np.sqrt(np.mean(step**2)), 0.01, rtol=1e-3)


def scale_by_lr(**options):
    return optax.chain(scale_by_celo2(THETA, **options), optax.scale_by_learning_rate(0.01))


def test_a_convolution_kernel_is_one_matrix_by_default():
    w, grads = draw((3, 3, 4, 16))
    p, _ = train(make(0.01, labels="celo2"), w, grads)
    q, _ = train(make(0.01, labels="celo2"), w.reshape(36, 16), grads.reshape(-1, 36, 16))
    np.testing.assert_allclose(p.reshape(36, 16), q, rtol=0, atol=1e-5)
    _, expected = oracle_steps(REFERENCE, grads.reshape(-1, 36, 16), w.reshape(36, 16), True)
    np.testing.assert_allclose(q, expected[-1], rtol=0, atol=1e-5)


def test_a_python_float_is_a_leaf():
    params = {"w": jnp.ones((3, 2)), "temperature": 1.0}
    optimizer = make(1e-3)
    grads = {"w": jnp.ones((3, 2)), "temperature": 0.5}
    # Compiled around the leaf, which an argument would turn into an array.
    updates, _ = jax.jit(lambda: optimizer.update(grads, optimizer.init(params), params))()
    np.testing.assert_allclose(updates["temperature"], -0.02, rtol=1e-3)


def test_names_of_haiku_are_cut_at_slashes():
    params = {
        "transformer/~/lm_head": {"w": jnp.ones((8, 16))},
        "mlp/~/linear_0": {"w": jnp.ones((8, 16))},
    }
    rules = {each.name: each.rule for each in route(params)}
    assert rules == {"mlp.linear_0.w": "celo2", "transformer.lm_head.w": "adamw"}


def test_a_key_named_value_stays_in_the_name():
    params = {"attention": {"value": jnp.ones((8, 16)), "query": jnp.ones((8, 16))}}
    assert [each.name for each in route(params)] == ["attention.query", "attention.value"]


def test_routing_by_names_and_its_table():
    params = {
        "token_embedding": jnp.ones((50, 8)),
        "blocks": {
            "attention": {"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)},
            "norm1": {"scale": jnp.ones(8)},
        },
        "lm_head": {"kernel": jnp.ones((8, 50))},
        "conv": jnp.ones((3, 3, 4, 8)),
    }
    rules = {r.name: r.rule for r in route(params)}
    assert {name for name, rule in rules.items() if rule == "celo2"} == {
        "blocks.attention.kernel",
        "conv",
    }
    assert "lm_head.kernel" in str(route(params))
    assert "output head, by its name" in str(route(params))
    assert {r.rule for r in route(params, everywhere=True)} == {"celo2"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(-1.0), "learning_rate is -1.0; it must not be below 0"),
        (lambda: make(1e-3, weight_decay=-1), "weight_decay is -1; it must not be below 0"),
        (lambda: celo2(1e-3, theta="nope"), "unknown theta 'nope'"),
        (lambda: make(1e-3, labels="sgd"), "unknown rule 'sgd'"),
        (
            lambda: scale_by_celo2(THETA).init(jnp.ones((2, 2), jnp.complex64)),
            "only real floats can be optimized",
        ),
        (
            lambda: scale_by_celo2(THETA, axes=MatrixAxes(0, 0)).init(jnp.ones((2, 2))),
            "state each axis once",
        ),
    ],
)
def test_bad_input_gets_one_sentence(call, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")) as caught:
        call()
    assert "\n" not in str(caught.value)
