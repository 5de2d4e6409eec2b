"""The families of the benchmark's problems, by name; the data are loaded at the call."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from celo2.data.images import load
from celo2.data.tables import diamonds
from celo2.data.text import state_of_the_union
from celo2.data.tokens import tokenized
from celo2.tasks.augmented import Augmented
from celo2.tasks.base import TaskFamily
from celo2.tasks.batch_norm import BatchNormNet
from celo2.tasks.burgers import BurgersNetwork, collocation
from celo2.tasks.coordinates import Siren, photograph
from celo2.tasks.diffusion import UNet
from celo2.tasks.fine_tuning import FineTuning, classes_of, pretrained
from celo2.tasks.gpt import GPT
from celo2.tasks.gru import GRU
from celo2.tasks.image_sets import ImageSets
from celo2.tasks.in_context import InContextRegression, LinearFunctions
from celo2.tasks.mixer import Mixer
from celo2.tasks.moe import MixtureOfExperts
from celo2.tasks.noise import WithNoise
from celo2.tasks.resnet import ResNet
from celo2.tasks.tables import Table, TabularResNet, rows
from celo2.tasks.text_sets import TextWindows
from celo2.tasks.vae import VAE
from celo2.tasks.vit import ViT


def images(name: str, batch_size: int) -> ImageSets:
    """Load a data set with its held-out part."""
    train, held_out = load(name).flat()
    return ImageSets.of([train], [held_out], batch_size)


def _speeches(context: int, batch_size: int, vocabulary: int) -> TextWindows:
    found = tokenized(state_of_the_union(), vocabulary)
    train, held_out = jnp.asarray(found.train), jnp.asarray(found.held_out)
    return TextWindows(train, held_out, context, batch_size, vocabulary)


def _speech_bytes(context: int, batch_size: int) -> TextWindows:
    text = state_of_the_union()
    return TextWindows(jnp.asarray(text.train), jnp.asarray(text.held_out), context, batch_size)


def _diamonds(batch_size: int) -> Table:
    train, held_out = (rows(part.features, part.target[:, None]) for part in diamonds())
    return Table(train, held_out, batch_size)


def _fine_tuning() -> TaskFamily:
    """Pretrain on the first five classes; tune on 100 images of each of the others."""
    train, held_out = load("cifar10").flat()
    known, new = range(5), range(5, 10)
    ample = ImageSets.of([classes_of(train, known)], [classes_of(held_out, known)], 64)
    few = ImageSets.of([classes_of(train, new, each=100)], [classes_of(held_out, new)], 64)
    params, state = pretrained(BatchNormNet(Augmented(ample)), steps=600)
    return FineTuning(BatchNormNet(Augmented(few)), params, state)


BENCHMARK: dict[str, Callable[[], TaskFamily]] = {
    "cifar10-resnet": lambda: ResNet(Augmented(images("cifar10", 32))),
    "cifar10-vit": lambda: ViT(Augmented(images("cifar10", 32))),
    "fashion-mixer": lambda: Mixer(images("fashion-mnist", 32)),
    "speech-gpt": lambda: GPT(_speeches(context=64, batch_size=16, vocabulary=1024)),
    "speech-moe": lambda: MixtureOfExperts(_speeches(context=64, batch_size=16, vocabulary=512)),
    "speech-gru": lambda: GRU(_speech_bytes(context=48, batch_size=32)),
    "fashion-vae": lambda: VAE(WithNoise(images("fashion-mnist", 128), width=16)),
    "fashion-diffusion": lambda: UNet(WithNoise(images("fashion-mnist", 24), width=28 * 28)),
    "diamonds-resnet": lambda: TabularResNet(_diamonds(256)),
    "photo-siren": lambda: Siren(photograph(512)),
    "burgers-pinn": lambda: BurgersNetwork(collocation(512)),
    "in-context-regression": lambda: InContextRegression(LinearFunctions()),
    "cifar10-fine-tuning": _fine_tuning,
}
