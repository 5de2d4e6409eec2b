"""The augmented task families that a configuration trains theta on: small ones, or a user's own."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from celo2.data.images import LabeledSet
from celo2.errors import InputError
from celo2.meta.config import MetaConfig
from celo2.tasks.base import TaskFamily
from celo2.tasks.image_sets import ImageSets
from celo2.tasks.registry import SMALL, SYNTHETIC, small_family, synthetic_family
from celo2.tasks.reparametrize import Reparametrize


def task_families(config: MetaConfig, sets: Sequence[LabeledSet]) -> list[TaskFamily]:
    """Make the families of a configuration.

    `sets` are the images of those that `needs_images` names; without such there need not be any.

    Raises:
        InputError: the configuration names none, or an unknown one.
    """
    check_families(config.families)
    augmentation = config.augmentation
    families = [own(name) for name in config.families if is_own(name)]
    families += [synthetic_family(name) for name in config.families if name in SYNTHETIC]
    small = [name for name in config.families if needs_images(name)]
    if small:
        rare = augmentation.rare_inputs
        data = ImageSets.of(sets, train_size=config.train_size, rare_inputs=rare)
        families += [small_family(name, data) for name in small]
    return [Reparametrize(f, *augmentation.alpha, augmentation.granularity) for f in families]


def check_families(names: Sequence[str]) -> None:
    """Raise InputError if there are no names, or one that no family has."""
    known = ", ".join([*SMALL, *SYNTHETIC])
    if not names:
        raise InputError(f"families is empty; take some of {known}")
    for name in names:
        if not (is_own(name) or name in SMALL or name in SYNTHETIC):
            raise InputError(f"unknown task family {name!r}: take some of {known}")


def needs_images(name: str) -> bool:
    """Return whether a family is trained on the image sets of the configuration."""
    return not is_own(name) and name not in SYNTHETIC


def is_own(name: str) -> bool:
    """Return whether a name is that of a user's own family."""
    return ":" in name


def own(path: str) -> TaskFamily:
    """Return a user's own family by module:function.

    Raises:
        InputError: it cannot be imported or called, or is not a family.
    """
    try:
        family = pkgutil.resolve_name(path)()
    except Exception as error:  # whatever the user's code raises
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"family {path!r} cannot be made ({reason}); "
            "give module:function, a function without arguments"
        ) from error
    methods = ("sample", "init", "loss", "evaluate")
    missing = [each for each in methods if not callable(getattr(family, each, None))]
    if missing:
        raise InputError(
            f"{path} returned a {type(family).__name__} without {', '.join(missing)}; "
            "return a celo2.tasks.base.TaskFamily"
        )
    return family


def loss_ceiling(families: Sequence[TaskFamily], seed: int, draws: int = 8) -> float:
    """Return 1.5 times the held-out loss of new networks, the highest mean of the families.

    Of ten classes that is about 1.5 ln 10, as published; losses of other kinds have other sizes.

    Raises:
        InputError: it is not a number above 0.
    """

    def first_loss(family: TaskFamily, key: jax.Array) -> jax.Array:
        task_key, params_key, batch_key = jax.random.split(key, 3)
        task = family.sample(task_key)
        params, state = family.init(params_key, task)
        return family.evaluate(params, state, task, batch_key)["loss"]

    keys = jax.random.split(jax.random.key(seed), draws)
    means = []
    for family in families:
        losses = jax.jit(jax.vmap(first_loss, (None, 0)))(family, keys)
        means.append(float(jnp.mean(losses)))
    ceiling = float(f"{1.5 * max(means):.4g}")
    if not 0 < ceiling < float("inf"):
        raise InputError(
            f"family's new networks have held-out losses of {means} on average; meta-training "
            "clips losses to a range that begins at 0, so give finite ones above it"
        )
    return ceiling
