"""Protects the generative models of the benchmark and the noise in their data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from celo2.data.images import LabeledSet
from celo2.tasks.diffusion import UNet
from celo2.tasks.image_sets import ImageSets
from celo2.tasks.noise import WithNoise
from celo2.tasks.vae import VAE, divergence_from_prior
from tests.tasks.learning import adamw

pytestmark = pytest.mark.slow

SIDE = 8


def squares(seed, count=64):
    """Gray images whose left half is of one brightness and whose right half of another."""
    halves = np.random.default_rng(seed).uniform(size=(count, 1, 2))
    images = np.repeat(np.repeat(halves, SIDE, 1), SIDE // 2, 2).reshape(count, -1)
    return LabeledSet("squares", images.astype(np.float32), np.zeros(count, int), 1)


@pytest.fixture(scope="module")
def sets():
    return ImageSets.of([squares(0)], [squares(1)], batch_size=16)


FAMILIES = {
    "vae": lambda sets: VAE(WithNoise(sets, width=2), width=16),
    "diffusion": lambda sets: UNet(WithNoise(sets, width=SIDE * SIDE), width=8),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_generative_model_learns(name, sets):
    before, after = adamw(FAMILIES[name](sets), steps=60)
    assert after["loss"] < 0.95 * before["loss"]


def test_noise_is_standard_normal_and_times_cover_the_unit_interval(sets):
    data = WithNoise(sets, width=500)
    draw = jax.jit(data.batch)
    batch = draw(jax.random.key(1), data.sample(jax.random.key(0)))
    np.testing.assert_allclose([batch.noise.mean(), batch.noise.std()], [0, 1], atol=0.05)
    np.testing.assert_allclose(jnp.diff(batch.time), 1 / 16, atol=1e-6)
    assert 0 <= batch.time[0] < 1 / 16
    other = draw(jax.random.key(2), data.sample(jax.random.key(0)))
    assert not np.allclose(batch.noise, other.noise)


def test_held_out_images_are_none_of_those_trained_on(sets):
    data = WithNoise(sets, width=2)
    task = data.sample(jax.random.key(0))
    held_out = {row.tobytes() for row in squares(1).images}
    trained_on = {row.tobytes() for row in squares(0).images}
    for part, known in ((data.batch, trained_on), (data.held_out_batch, held_out)):
        drawn = {np.asarray(row).tobytes() for row in part(jax.random.key(0), task).images}
        assert drawn <= known
    assert not held_out & trained_on


def test_the_divergence_is_torchs():
    mean, log_deviation = np.random.default_rng(0).normal(size=(2, 3, 4))
    posterior = torch.distributions.Normal(torch.tensor(mean), torch.tensor(np.exp(log_deviation)))
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    found = divergence_from_prior(jnp.asarray(mean), jnp.asarray(log_deviation))
    np.testing.assert_allclose(found, expected.sum(-1), rtol=1e-5)


def test_the_denoiser_of_pure_images_is_asked_for_the_noise_and_of_pure_noise_for_the_image(sets):
    """The loss of a network that predicts zero is the mean square of its target: at t = 0 that of
    the noise, at t = 1 that of the centered image.
    """
    family = UNet(WithNoise(sets, width=SIDE * SIDE), width=8)
    params = jax.jit(family.init_params)(jax.random.key(0))
    params |= {name: jnp.zeros_like(params[name]) for name in ("head.w", "head.b")}
    batch = family.data.batch(jax.random.key(0), family.sample(jax.random.key(0)))
    expected = {0.0: batch.noise, 1.0: 4 * (batch.images - 0.5)}
    for time, target in expected.items():
        at = batch._replace(time=jnp.full_like(batch.time, time))
        loss = jax.jit(family.batch_loss)(params, at)
        np.testing.assert_allclose(loss, jnp.square(target).mean(), rtol=1e-4)
