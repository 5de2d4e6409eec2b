"""Protects the oracle: the naive NumPy form agrees with the authors' code in float64."""

import numpy as np
import pytest

from tests.baselines.golden import cases
from tests.baselines.oracle import CeloOracle, VeloOracle


def make(case):
    params = case.tree("params0")
    if case.file == "velo":
        return VeloOracle(case.theta, params, case.num_steps)
    return CeloOracle(
        case.theta, params, case.num_steps, case.get("phase", 2), case.get("adam", False)
    )


def replay(case, oracle):
    """(updates, what the oracle recorded) of each step, on the oracle's own parameters."""
    params = {name: np.asarray(w, np.float64) for name, w in case.tree("params0").items()}
    updates, records = [], []
    for t, loss in enumerate(np.asarray(case.losses, np.float64)):
        grads = {name: np.asarray(g, np.float64) for name, g in case.grads(t).items()}
        updates.append(oracle.step(grads, params, loss))
        records.append(oracle.record)
        params = {name: w - updates[-1][name] for name, w in params.items()}
    return updates, records


@pytest.mark.parametrize("case", [*cases("celo"), *cases("celo_digits"), *cases("velo")], ids=str)
def test_agrees_with_the_authors_implementation(case):
    updates, records = replay(case, make(case))
    assert case.distances(updates).max() < 1e-10
    for key in ("lr", "lstm_input"):
        for t, record in enumerate(records):
            if case.file == "velo":
                expected = {name: array[t] for name, array in case.tree(key).items()}
            else:
                expected, record = {"all": case[key][t]}, {key: {"all": record[key]}}
            for name, value in expected.items():
                np.testing.assert_allclose(record[key][name], value, rtol=1e-9, atol=1e-9)
