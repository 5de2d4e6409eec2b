"""Protects the outer loop: theta descends, a cut or killed run ends as a whole one."""

import dataclasses
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo2 import InputError
from celo2.meta import outer
from celo2.meta.checkpoint import theta_of
from celo2.meta.estimators import Estimate, Unrolled
from tests.families import Quadratic
from tests.meta.settings import CONFIG, ESTIMATOR, FAMILY, LOOP

pytestmark = pytest.mark.slow


@dataclasses.dataclass(frozen=True)
class NotFinite(Unrolled):
    """An estimator whose gradient is not a number in every third outer step."""

    def estimate(self, loop, family, theta, state, key, progress=0.0):
        estimate = super().estimate(loop, family, theta, state, key, progress)
        bad = jnp.where(jax.random.uniform(key) < 1 / 3, jnp.nan, 1.0)
        return Estimate(jax.tree.map(lambda g: g * bad, estimate.gradient), *estimate[1:])


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(tmp_path):
    config = dataclasses.replace(CONFIG, estimator=NotFinite(8, 10))
    metrics = list(outer.run(config, [FAMILY], tmp_path))
    nans = [not np.isfinite(m.gradient_norm) for m in metrics]
    assert 2 < sum(nans) < 25
    assert [m.skipped for m in metrics] == list(np.cumsum(nans))
    assert all(np.isfinite(w).all() for w in theta_of(tmp_path)[0])


def test_meta_training_lowers_the_meta_loss(tmp_path):
    loop = dataclasses.replace(LOOP, adamw_lr_multiplier=1.0)
    config = dataclasses.replace(
        CONFIG, inner=dataclasses.replace(loop, learning_rate=(0.05, 0.05)), outer_steps=150
    )
    losses = [m.meta_loss for m in outer.run(config, [FAMILY], tmp_path)]
    assert np.mean(losses[-60:]) < 0.9 * np.mean(losses[:30])


def test_a_run_that_was_cut_ends_bit_identical(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for _ in outer.run(CONFIG, [FAMILY], whole):
        pass
    for stop in (7, 13, None):
        run = outer.run(CONFIG, [FAMILY], cut)
        for _ in itertools.islice(run, stop):
            pass
        run.close()
    for a, b in zip(theta_of(whole)[0], theta_of(cut)[0], strict=True):
        np.testing.assert_array_equal(a, b)
    lines = [
        [json.loads(line) for line in (d / "metrics.jsonl").read_text().splitlines()]
        for d in (whole, cut)
    ]
    assert [x["meta_loss"] for x in lines[0]] == [x["meta_loss"] for x in lines[1]]


KILLED = """
import sys
from pathlib import Path
from celo2.meta import outer
from tests.meta.settings import CONFIG, FAMILY
for _ in outer.run(CONFIG, [FAMILY], Path(sys.argv[1]), every_seconds=0.0):
    pass
"""


def test_a_run_that_was_killed_ends_bit_identical(tmp_path):
    """SIGKILL at moments of no one's choosing, until a process gets to the end."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for _ in outer.run(CONFIG, [FAMILY], whole):
        pass
    root, kills = Path(__file__).parents[2], 0
    for patience in (0.05, 0.2, None):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(killed)], cwd=root)
        if patience is not None:
            before = len(_lines(killed))
            while len(_lines(killed)) < before + 3 and process.poll() is None:
                time.sleep(0.01)
            time.sleep(patience)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
    assert process.wait() == 0
    assert kills
    for a, b in zip(theta_of(whole)[0], theta_of(killed)[0], strict=True):
        np.testing.assert_array_equal(a, b)
    losses = [[json.loads(line)["meta_loss"] for line in _lines(d)] for d in (whole, killed)]
    assert losses[0] == losses[1]


def _lines(directory):
    path = directory / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_other_data_is_refused(tmp_path):
    next(outer.run(CONFIG, [FAMILY], tmp_path))
    with pytest.raises(InputError, match=r"another configuration \(data was \w+, now \w+\)"):
        next(outer.run(CONFIG, [Quadratic(jnp.zeros(()))], tmp_path))


def test_another_configuration_is_refused_with_the_difference_named(tmp_path):
    next(outer.run(CONFIG, [FAMILY], tmp_path))
    with pytest.raises(
        InputError, match=r"\(estimator.truncation_length was 10, now 5\); give another folder"
    ):
        next(outer.run(dataclasses.replace(CONFIG, estimator=Unrolled(8, 5)), [FAMILY], tmp_path))


def test_a_run_from_before_a_setting_existed_goes_on(tmp_path):
    list(itertools.islice(outer.run(CONFIG, [FAMILY], tmp_path), 3))
    written = json.loads((tmp_path / "config.json").read_text())
    del written["estimator.imitation"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert next(outer.run(CONFIG, [FAMILY], tmp_path)).step == 3
    imitating = dataclasses.replace(
        CONFIG, estimator=dataclasses.replace(ESTIMATOR, imitation=(0.5, 0.5))
    )
    with pytest.raises(InputError, match=r"estimator.imitation was \[0.0, 0.0\], now \[0.5, 0.5\]"):
        next(outer.run(imitating, [FAMILY], tmp_path))
