"""The augmented task families that a configuration trains theta on."""

from __future__ import annotations

from collections.abc import Sequence

from celo2.data.images import LabeledSet
from celo2.errors import InputError
from celo2.meta.config import MetaConfig
from celo2.tasks.base import TaskFamily
from celo2.tasks.image_sets import ImageSets
from celo2.tasks.registry import SMALL, small_family
from celo2.tasks.reparametrize import Reparametrize


def task_families(config: MetaConfig, sets: Sequence[LabeledSet]) -> list[TaskFamily]:
    """Make the families of a configuration on these image sets.

    Raises:
        InputError: the configuration names none, or an unknown one.
    """
    if not config.families:
        raise InputError(f"families is empty; take some of {', '.join(SMALL)}")
    augmentation = config.augmentation
    data = ImageSets.of(sets, train_size=config.train_size, rare_inputs=augmentation.rare_inputs)
    families = [small_family(name, data) for name in config.families]
    return [Reparametrize(f, *augmentation.alpha, augmentation.granularity) for f in families]
