"""Protects task families of a user's own in meta-training."""

import jax.numpy as jnp
import numpy as np
import pytest

from celo2 import InputError, load_theta
from celo2.cli import main
from celo2.meta.families import loss_ceiling, own
from tests.families import Quadratic


def test_a_family_is_found_by_its_path():
    assert isinstance(own("tests.families:Quadratic"), Quadratic)


def test_what_is_no_family_is_refused():
    with pytest.raises(
        InputError, match=r"family 'absent:x' cannot be made .*No module.*module:function"
    ):
        own("absent:x")
    with pytest.raises(InputError, match="os:getcwd returned a str without sample, init, loss, ev"):
        own("os:getcwd")


def test_the_loss_ceiling_is_half_more_than_the_loss_of_new_networks():
    """Weights of deviation 0.1, targets of 1, noise of 0.1: mean square 1.02, of few draws."""
    found = loss_ceiling([Quadratic()], 0, draws=512)
    np.testing.assert_allclose(found, 1.5 * 1.02, rtol=0.05)
    assert loss_ceiling([Quadratic()], 0) == loss_ceiling([Quadratic()], 0)


def test_losses_below_zero_are_refused():
    with pytest.raises(InputError, match=r"family's new networks have held-out losses of .*above"):
        loss_ceiling([Quadratic(targets=jnp.array(jnp.nan))], 0)


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
