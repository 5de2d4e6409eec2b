"""Protects the policy: its formula by hand, its form in a theta file, and what is refused."""

import dataclasses
import json
import math

import numpy as np
import pytest

from celo2 import InputError, load_theta
from celo2.parameters.views import MatrixAxes, matrix_views
from celo2.policy import Policy, PowerLaw, matrix_size, matrix_width, plan
from tests.cases import THETA

POLICY = Policy(
    hidden=PowerLaw(2e-3, -0.5),
    embedding=PowerLaw(4e-2, -1.0),
    head=PowerLaw(1e-2, 0.0),
    vector=PowerLaw(2e-2, 0.5),
    warmup=0.1,
    final=0.2,
    linear=1.0,
    weight_decay=0.3,
    cautious=0.5,
    small_weights=0.1,
    reference_width=128.0,
)


def test_peaks_are_power_laws_of_the_length_of_the_run():
    peaks = [POLICY.peak(np, kind, 4000) for kind in ("hidden", "embedding", "head", "vector")]
    np.testing.assert_allclose(peaks, [1e-3, 1e-2, 1e-2, 4e-2])
    np.testing.assert_allclose(POLICY.multipliers(np, 1000)["embedding"], 20)


def test_runs_below_the_shortest_have_its_peaks():
    """Power laws grow without bound: 40 steps would train an embedding at 0.5."""
    assert POLICY.peak(np, "embedding", 4) == POLICY.peak(np, "embedding", 400)
    assert POLICY.peak(np, "embedding", 400) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("linear", "step", "factor"),
    [
        (1.0, 0, 0.05),  # progress 0.005 of a warm-up of 0.1
        (1.0, 9, 0.95),  # progress 0.095
        (1.0, 54, 0.2 + 0.8 * (1 - 0.445 / 0.9)),
        (0.0, 54, 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 0.445 / 0.9))),
        (0.5, 54, 0.2 + 0.4 * (1 - 0.445 / 0.9 + 0.5 * (1 + math.cos(math.pi * 0.445 / 0.9)))),
        (1.0, 99, 0.2 + 0.8 * 0.005 / 0.9),
        (1.0, 500, 0.2 + 0.8 * 0.005 / 0.9),  # past the end, as the last step
    ],
)
def test_the_shape_by_hand(linear, step, factor):
    got = POLICY._replace(linear=linear).factor(np, step, 100)
    np.testing.assert_allclose(got, factor, rtol=1e-12)


@pytest.mark.parametrize(
    ("sizes", "factor"),
    [
        ([1.0, 0.6, 0.3], 1.0),
        ([0.05, 0.04, 3.0], 0.05),  # a SIREN: the first layer is large
        ([0.0, 0.05, 0.0, 0.04, 3.0], 0.05),  # zeros tell nothing
        ([0.04, 0.5], 0.04),  # of two, the lower
        ([0.0, 0.0], 1.0),
    ],
)
def test_small_weights_make_small_learning_rates(sizes, factor):
    np.testing.assert_allclose(POLICY.weight_factor(np, np.array(sizes)), factor)


def test_the_size_of_a_matrix_is_about_1_at_the_usual_initialization():
    view = matrix_views((3, 3, 16, 32), MatrixAxes(fan_in=(0, 1, 2), fan_out=3))[0]
    assert matrix_size(np, 1 / (9 * 16), view) == pytest.approx(1.0)


def test_no_warmup_begins_at_the_peak():
    assert POLICY._replace(warmup=0.0, linear=0.0).factor(np, 0, 1000) == pytest.approx(1, abs=1e-5)


def test_a_theta_file_carries_the_policy_and_keeps_its_identity(tmp_path):
    theta = dataclasses.replace(THETA, policy=POLICY)
    theta.save(tmp_path / "a.safetensors")
    again = load_theta(tmp_path / "a.safetensors")
    assert again.policy == POLICY
    assert again.identity == THETA.identity
    THETA.save(tmp_path / "b.safetensors")
    assert load_theta(tmp_path / "b.safetensors").policy is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"warmup": 1.0}, "warmup of the policy is 1.0; it must lie between 0 and 0.9"),
        ({"hidden.at_1000": 0.0}, "hidden.at_1000 of the policy is 0.0"),
        ({"weight_decay": math.nan}, "weight_decay of the policy is nan"),
        ({"head.exponent": None}, "is damaged"),
        ({"head.exponent": "x"}, "is damaged"),
    ],
)
def test_a_damaged_policy_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        Policy.from_json(json.dumps(POLICY.numbers() | change))


def test_a_policy_from_before_a_number_does_what_it_did():
    numbers = POLICY.numbers()
    del numbers["cautious"], numbers["reference_width"]
    policy = Policy.from_json(json.dumps(numbers))
    assert policy.cautious == 0
    assert policy.width_factor(np, np.array([1e6])) == 1


@pytest.mark.parametrize("text", ["{", "[]", "{}", "3"])
def test_what_is_no_policy_is_refused(text):
    with pytest.raises(InputError, match="is damaged"):
        Policy.from_json(text)


def test_a_plan_shows_every_kind():
    shown = plan(POLICY, 101)
    assert shown.steps == (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
    assert max(shown.learning_rates["hidden"]) <= POLICY.peak(np, "hidden", 101)
    first, last = str(shown).splitlines()[1], str(shown).splitlines()[-2]
    assert first.split()[0] == "0"
    assert last.split()[1] == f"{shown.learning_rates['hidden'][-1]:.2e}"


@pytest.mark.parametrize("total_steps", [0, -3, 1.5, "100", True, None])
def test_a_length_that_is_no_number_of_steps(total_steps):
    with pytest.raises(InputError, match="give the number of optimizer steps of the whole run"):
        plan(POLICY, total_steps)


def test_the_shipped_theta_has_a_policy():
    policy = load_theta("celo2").required_policy()
    assert policy == Policy.from_json(policy.to_json())
    with pytest.raises(InputError, match="theta 'celo2-base' has no policy"):
        load_theta("celo2-base").required_policy()


@pytest.mark.parametrize(
    ("widths", "factor"),
    [([64, 128, 128], 1.0), ([512, 512], 0.5), ([10, 512, 2048], 0.5), ([32, 512], 1.0)],
)
def test_wide_matrices_have_a_smaller_learning_rate(widths, factor):
    """sqrt(128 / 512), by the median, of two the lower; narrow ones do not have a larger one."""
    assert float(POLICY.width_factor(np, np.array(widths))) == pytest.approx(factor)


def test_the_width_of_fused_and_separate_projections_is_that_of_the_model():
    axes = MatrixAxes(fan_in=-2, fan_out=-1)
    for shape in ((64, 192), (64, 64), (256, 64)):
        assert matrix_width(matrix_views(shape, axes)[0]) == 64


def test_a_plan_shows_the_factor_of_hidden_matrices_alone():
    wide, usual = plan(POLICY, 100, width_factor=0.5), plan(POLICY, 100)
    for kind, values in usual.learning_rates.items():
        factor = 0.5 if kind == "hidden" else 1.0
        assert wide.learning_rates[kind] == pytest.approx([factor * value for value in values])
