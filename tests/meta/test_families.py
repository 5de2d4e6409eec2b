"""Protects task families of a user's own in meta-training."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from celo2 import InputError, load_theta
from celo2.cli import main
from celo2.cli.meta_train import train_theta
from celo2.meta.config import MetaConfig
from celo2.meta.families import check_families, loss_ceiling, needs_images, own, task_families
from celo2.meta.starts import STARTS
from celo2.tasks.lstm import ByteLSTM
from celo2.tasks.teacher import Student
from tests.families import Quadratic
from tests.meta.settings import CONFIG


def test_a_family_is_found_by_its_path():
    assert isinstance(own("tests.families:Quadratic"), Quadratic)


def test_what_is_no_family_is_refused():
    with pytest.raises(
        InputError, match=r"family 'absent:x' cannot be made .*No module.*module:function"
    ):
        own("absent:x")
    with pytest.raises(InputError, match="os:getcwd returned a str without sample, init, loss, ev"):
        own("os:getcwd")


def test_families_that_make_their_data_need_no_images():
    config = MetaConfig(families=("teacher", "text-lstm"))
    assert not any(map(needs_images, config.families))
    assert [type(each.family) for each in task_families(config, [])] == [Student, ByteLSTM]
    assert needs_images("mlp")
    with pytest.raises(InputError, match=r"families is empty; take some of mlp, .*, teacher"):
        task_families(MetaConfig(families=()), [])
    with pytest.raises(InputError, match=r"unknown task family 'techer': take some of mlp, .*each"):
        check_families(("mlp", "techer"))


def test_the_loss_ceiling_is_half_more_than_the_loss_of_new_networks():
    """Weights of deviation 0.1, targets of 1, noise of 0.1: mean square 1.02, of few draws."""
    found = loss_ceiling([Quadratic()], 0, draws=512)
    np.testing.assert_allclose(found, 1.5 * 1.02, rtol=0.05)
    assert loss_ceiling([Quadratic()], 0) == loss_ceiling([Quadratic()], 0)


def test_losses_below_zero_are_refused():
    with pytest.raises(InputError, match=r"family's new networks have held-out losses of .*above"):
        loss_ceiling([Quadratic(targets=jnp.array(jnp.nan))], 0)


@pytest.mark.slow
def test_a_theta_trained_by_a_policy_carries_it(tmp_path, capsys):
    config = dataclasses.replace(
        CONFIG, families=("tests.families:Quadratic",), start="muon-1", outer_steps=6
    )
    source = tmp_path / "policy.safetensors"
    load_theta("celo2").save(source)
    changes = {"policy": str(source), "adam": "front-end", "learning_rate": (0.5, 2.0)}
    config = dataclasses.replace(config, inner=dataclasses.replace(config.inner, **changes))
    theta = train_theta("mine", config, tmp_path / "run", Console())
    before = STARTS["muon-1"](config.seed, config.inner.spec).weights
    assert 0 < np.abs(theta.weights.w0 - before.w0).max() < 0.1
    saved = load_theta(tmp_path / "run" / "theta.safetensors")
    assert saved.policy == load_theta("celo2").policy
    # The file is part of the configuration.
    changed = saved.required_policy()._replace(weight_decay=0.25)
    dataclasses.replace(saved, policy=changed).save(source)
    with pytest.raises(InputError, match=r"policy\.weight_decay was 1\.5, now 0\.25"):
        train_theta("mine", config, tmp_path / "run", Console())


@pytest.mark.slow
def test_the_shipped_theta_is_adapted_by_one_command(tmp_path, capsys):
    command = ["meta-train", "--family", "tests.families:Quadratic", "--outer-steps", "25"]
    main([*command, "--trajectories", "8", "--horizon", "60", "90", "--out", str(tmp_path)])
    assert "on tests.families:Quadratic; " in " ".join(capsys.readouterr().out.split())
    theta, before = load_theta(tmp_path / "theta.safetensors"), load_theta("celo2")
    assert theta.provenance["config"]["start"] == "celo2"
    assert theta.provenance["config"]["inner.horizon"] == [60, 90]
    assert theta.policy == before.policy
    assert theta.provenance["config"]["inner.loss_ceiling"] < 3
    moved = np.abs(theta.weights.w0 - before.weights.w0).max()
    assert 0 < moved < 0.05
