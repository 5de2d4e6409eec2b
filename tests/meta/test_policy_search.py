"""Protects the search for a policy: it improves on a bad one, resumes to the bit, and its tasks are
what they say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo2 import InputError
from celo2.meta.policy_search import PolicySearch, decode, policy_losses, search, searched
from celo2.meta.policy_tasks import HELD_OUT, LENGTH, SYMBOLS, random_text
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


def test_random_text_is_predictable_by_two_letters_more_than_by_one():
    text = random_text(0).astype(int)
    assert text.shape == (LENGTH,)
    assert HELD_OUT < LENGTH
    assert set(np.unique(text)) <= set(range(SYMBOLS))
    np.testing.assert_array_equal(text, random_text(0))

    def surprise(context):
        """Mean nats per letter under the frequencies after `context` letters."""
        index = np.zeros(len(text) - 2, int)
        for back in range(1, context + 1):
            index = index * SYMBOLS + text[2 - back : len(text) - back]
        counts = np.zeros((SYMBOLS**context, SYMBOLS))
        np.add.at(counts, (index, text[2:]), 1)
        p = counts / counts.sum(-1, keepdims=True).clip(1)
        return -(counts * np.log(p.clip(1e-12))).sum() / counts.sum()

    none, one, two = (surprise(context) for context in range(3))
    assert none - one > 0.3
    assert one - two > 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [({"population": 2}, "population is 2"), ({"horizons": ()}, r"horizons are \(\)")],
)
def test_configurations_that_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        PolicySearch(**change)
