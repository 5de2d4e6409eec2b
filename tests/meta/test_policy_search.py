"""Protects the search for a policy: it improves on a bad one, and resumes to the bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo2 import InputError
from celo2.meta.policy_search import PolicySearch, decode, policy_losses, search, searched
from celo2.policy import Policy, PowerLaw
from tests.cases import THETA as RULE
from tests.families import Quadratic

pytestmark = pytest.mark.slow

SLOW = PowerLaw(1e-3, 0.0)
START = Policy(
    *[SLOW] * 4,
    warmup=0.1,
    final=0.0,
    linear=1.0,
    weight_decay=0.0,
    cautious=0.5,
    small_weights=0.1,
    reference_width=128.0,
)
THETA = dataclasses.replace(RULE, policy=START)
TASKS = {"quadratic": Quadratic()}
SEARCH = PolicySearch(horizons=(8, 16), population=6, generations=4, seeds=1)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    return folder, list(search(SEARCH, THETA, TASKS, folder))


def test_it_improves_on_learning_rates_that_are_too_small(found):
    _, generations = found
    policy = generations[-1].policy
    candidates = {name: jnp.array([a, b]) for name, a, b in both(START, policy)}
    before, after = policy_losses(THETA, Quadratic(), candidates, 16, jax.random.key(9))
    assert after < 0.999 * before


def both(first, second):
    pairs = zip(first.numbers().items(), second.numbers().values(), strict=True)
    return [(name, a, b) for (name, a), b in pairs]


def test_it_resumes_to_the_bit(found, tmp_path):
    _, whole = found
    half = dataclasses.replace(SEARCH, generations=2)
    assert list(search(half, THETA, TASKS, tmp_path)) == whole[:2]
    assert list(search(SEARCH, THETA, TASKS, tmp_path)) == whole[2:]
    assert list(search(SEARCH, THETA, TASKS, tmp_path)) == []


def test_a_folder_belongs_to_one_search(found):
    folder, _ = found
    with pytest.raises(InputError, match="holds a search with another seed; give another folder"):
        next(search(dataclasses.replace(SEARCH, seed=1), THETA, TASKS, folder))


def test_zero_is_the_start_and_numbers_keep_their_ranges():
    start = START.numbers()
    ends = jnp.array([[0.0], [100.0], [-100.0]]) * jnp.ones(len(searched(start)))
    numbers = decode(ends, start)
    for name, value in start.items():
        assert float(numbers[name][0]) == pytest.approx(value)
    np.testing.assert_array_equal(numbers["small_weights"], np.float32(start["small_weights"]))
    for i in (1, 2):
        extreme = Policy.of({name: float(value[i]) for name, value in numbers.items()})
        assert Policy.from_json(extreme.to_json()) == extreme


@pytest.mark.parametrize(
    ("change", "message"),
    [({"population": 2}, "population is 2"), ({"horizons": ()}, r"horizons are \(\)")],
)
def test_configurations_that_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        PolicySearch(**change)
