"""Protects the tabular and scientific problems of the benchmark."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo2.tasks.burgers import VISCOSITY, BurgersNetwork, collocation, exact, residual
from celo2.tasks.coordinates import Siren, photograph
from celo2.tasks.in_context import InContextRegression, LinearFunctions
from celo2.tasks.tables import Table, TabularResNet, rows
from celo2.tasks.teacher import NOISE, Student, Teachers
from tests.tasks.learning import adamw

pytestmark = pytest.mark.slow


def table(batch_size=32):
    """The target is a smooth function of four features."""
    rng = np.random.default_rng(0)
    parts = []
    for count in (500, 100):
        features = rng.uniform(-1, 1, size=(count, 4))
        parts.append(rows(features, np.sin(2 * features[:, :1]) + features[:, 1:2]))
    return Table(*parts, batch_size)


FAMILIES = {
    "table": lambda: TabularResNet(table(), width=16, depth=1),
    "coordinates": lambda: Siren(photograph(128), width=32, depth=2),
    "in-context": lambda: InContextRegression(LinearFunctions(1, points=6), width=32, depth=1),
    "teacher": lambda: Student(Teachers(inputs=2), hidden=(32,)),
    "burgers": lambda: BurgersNetwork(collocation(64, known=64), width=16, depth=2),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns(name):
    before, after = adamw(FAMILIES[name](), steps=80, learning_rate=3e-3)
    assert after["loss"] < 0.7 * before["loss"]


def test_targets_are_the_outputs_of_the_teacher_and_the_noise_of_the_task():
    data = Teachers(batch_size=20_000)
    task = data.sample(jax.random.key(0))
    noisy, exact = (data.batch(jax.random.key(1), t) for t in (task, task._replace(noise=0.0)))
    np.testing.assert_array_equal(noisy.features, exact.features)
    deviation = (noisy.target - exact.target).std()
    np.testing.assert_allclose(deviation, task.noise, rtol=0.02)
    by_hand = np.tanh(exact.features @ task.first + task.bias) @ task.second
    np.testing.assert_allclose(exact.target, by_hand, atol=1e-5)
    held_out = data.held_out_batch(jax.random.key(1), task)
    both = np.concatenate([held_out.features, noisy.features])
    assert len(np.unique(both, axis=0)) == len(both)

    tasks = jax.vmap(data.sample)(jax.random.split(jax.random.key(2), 1000))
    assert ((tasks.noise >= NOISE[0]) & (tasks.noise <= NOISE[1])).all()
    np.testing.assert_allclose(np.median(tasks.noise), np.sqrt(NOISE[0] * NOISE[1]), rtol=0.2)


def test_an_exact_solution_has_no_residual():
    """The traveling wave u = c - a tanh(a (x - c t) / (2 nu)) solves Burgers' equation."""
    speed, height = 0.3, 0.02

    def wave(x, t):
        return speed - height * jnp.tanh(height * (x - speed * t) / (2 * VISCOSITY))

    x, t = jnp.linspace(-0.5, 0.5, 21), jnp.linspace(0.1, 0.9, 21)
    # The terms that cancel are as large as 0.009.
    assert abs(residual(wave, x, t)).max() < 1e-5
    assert abs(residual(lambda x, t: wave(x, 2 * t), x, t)).max() > 1e-3


def test_the_known_solution_solves_the_equation_and_meets_its_conditions():
    """Against central differences in float64 where it is smooth, and the conditions everywhere."""
    x, t, h = np.linspace(-0.9, 0.9, 7), np.full(7, 0.2), 1e-4
    u_t = (exact(x, t + h) - exact(x, t - h)) / (2 * h)
    u_x = (exact(x + h, t) - exact(x - h, t)) / (2 * h)
    u_xx = (exact(x + h, t) - 2 * exact(x, t) + exact(x - h, t)) / h**2
    assert abs(u_t).max() > 0.5
    np.testing.assert_allclose(u_t + exact(x, t) * u_x - VISCOSITY * u_xx, 0, atol=1e-4)
    np.testing.assert_allclose(exact(x, np.full(7, 1e-9)), -np.sin(np.pi * x), atol=1e-3)
    np.testing.assert_allclose(exact(np.array([-1.0, 1.0]), np.array([0.7, 0.7])), 0, atol=1e-6)


def test_the_network_for_burgers_equation_meets_the_conditions_from_the_start():
    family = BurgersNetwork(collocation(8, known=8), width=8, depth=1)
    params = family.init_params(jax.random.key(0))
    x = jnp.linspace(-1, 1, 9)
    np.testing.assert_allclose(
        family.solution(params, x, jnp.zeros(9)), -jnp.sin(jnp.pi * x), atol=1e-6
    )
    ends = family.solution(params, jnp.array([-1.0, 1.0]), jnp.array([0.5, 0.5]))
    np.testing.assert_allclose(ends, 0, atol=1e-6)


def test_predictions_in_context_do_not_see_the_answer():
    """Changing one y changes no prediction up to that point, and some after it."""
    family = InContextRegression(LinearFunctions(dimension=2, points=5, batch_size=3), 32, 1)
    params = jax.jit(family.init_params)(jax.random.key(0))
    prompts = family.data.batch(jax.random.key(0), ())
    changed = prompts._replace(y=prompts.y.at[:, 2].add(1))
    predict = jax.jit(family.predictions)
    difference = predict(params, prompts) - predict(params, changed)
    assert abs(difference[:, :3]).max() < 1e-6
    assert abs(difference[:, 3:]).max() > 1e-4


def test_prompts_are_of_linear_functions_and_those_held_out_are_others():
    data = LinearFunctions(dimension=3, points=8, batch_size=4)
    key = jax.random.key(0)
    batches = data.batch(key, ()), data.held_out_batch(key, ())
    for x, y in batches:
        for points, values in zip(x, y, strict=True):
            fitted, *_ = np.linalg.lstsq(points, values)
            np.testing.assert_allclose(points @ fitted, values, atol=1e-5)
    assert not np.allclose(batches[0].x, batches[1].x)


def test_no_pixel_of_the_photograph_is_both_trained_on_and_held_out():
    data = photograph(16)
    parts = []
    for part in (data.train, data.held_out):
        parts.append({tuple(position) for position in np.asarray(part.features).tolist()})
        assert -1 <= part.target.min() < part.target.max() <= 1
    assert not parts[0] & parts[1]
    assert len(parts[0]) == 7 * len(parts[1])


def test_positions_of_the_photograph_are_those_of_its_colors():
    """Pixels that are neighbors have similar colors."""
    data = photograph(16)
    colors = {}
    for part in (data.train, data.held_out):
        positions = np.round((np.asarray(part.features) + 1) / 2 * [95, 143]).astype(int)
        colors |= dict(zip(map(tuple, positions.tolist()), np.asarray(part.target), strict=True))
    assert len(colors) == 96 * 144
    image = np.array([[colors[i, j] for j in range(144)] for i in range(96)])
    steps = [abs(np.diff(image, axis=axis)).mean() for axis in (0, 1)]
    assert max(steps) < 0.2 * abs(image - image.mean((0, 1))).mean()


def test_held_out_rows_are_none_of_those_trained_on():
    data = table(batch_size=400)
    drawn = []
    for draw in (data.batch, data.held_out_batch):
        drawn.append({tuple(row) for row in np.asarray(draw(jax.random.key(0), ())[0]).tolist()})
    assert not drawn[0] & drawn[1]
    for found, part in zip(drawn, (data.train, data.held_out), strict=True):
        assert found <= {tuple(row) for row in np.asarray(part.features).tolist()}
