"""Everything that decides the result of a meta-training run; presets edit the default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from celo2.errors import InputError
from celo2.meta.estimators import ES, PES, Unrolled
from celo2.meta.inner import InnerLoop
from celo2.rule.spec import Spec
from celo2.tasks.reparametrize import Granularity


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to the tasks: reparametrization and rare inputs."""

    alpha: tuple[float, float] = (0.1, 10.0)
    """Range of the scale, log-uniform (the paper's is 1e-3..1e3); (1, 1) turns it off."""
    granularity: Granularity = "network"
    """What one draw is for."""
    rare_inputs: float = 0.0
    """Largest fraction of a task's pixels that are rarely shown: see `celo2.tasks.image_sets`."""


@dataclasses.dataclass(frozen=True)
class MetaConfig:
    """One meta-training run.

    The same configuration and seed give the same theta, bit for bit, on the same devices.
    """

    inner: InnerLoop = InnerLoop()
    estimator: Unrolled | PES | ES = Unrolled()
    augmentation: Augmentation = Augmentation()
    tasks: Literal["offline", "published"] = "offline"
    """Image sets at 8x8: the four that need no download, or MNIST, Fashion-MNIST, CIFAR-10 and street
    digits."""
    color: bool = False
    """Three channels instead of their mean, 192 inputs instead of 64."""
    families: tuple[str, ...] = ("mlp",)
    """Networks on those images: see `celo2.meta.families`."""
    train_size: int | None = None
    """Images that a task trains on, a window of at most half of its set; None: all, none held out."""
    start: Literal["random", "muon-0.3", "muon-1", "adam", "celo2"] = "random"
    """Theta at first: see `celo2.meta.starts`; celo2 is the one that ships with this version."""
    odd: bool = False
    """Keep theta among the odd rules: see `celo2.meta.symmetry`."""
    seed: int = 0
    """Of theta's start, of the image sets and of every draw of a task, a batch and a horizon."""
    outer_iterations: int = 3000
    """Outer steps."""
    global_clip: float = 1.0
    """Norm to which the mean meta-gradient is clipped."""
    learning_rate: float = 3e-3
    """Peak outer learning rate of AdamW(0.9, 0.999)."""
    final_learning_rate: float = 3e-5
    """Where the cosine ends."""
    warmup: int = 20
    """Outer steps of linear warm-up."""
    weight_decay: float = 1e-4
    """Of theta, decoupled."""

    def __post_init__(self) -> None:
        for name, value, least in (
            ("seed", self.seed, 0),
            ("trajectories", self.estimator.trajectories, 1),
        ):
            if value < least:
                raise InputError(f"{name} is {value}; give at least {least}")
        if self.outer_iterations <= self.warmup:
            raise InputError(
                f"outer_iterations is {self.outer_iterations}; "
                f"give more than the {self.warmup} of the warm-up"
            )


def celo2(config: MetaConfig) -> MetaConfig:
    """The recipe of the theta that ships as `celo2`; docs/meta-training.md says why."""
    return replace(
        config,
        inner=InnerLoop(
            learning_rate=(2e-3, 2e-2),
            cosine=True,
            horizon=(200, 500),
            weighting="linear",
            held_out=True,
        ),
        estimator=Unrolled(trajectories=8, truncation_length=50, trajectory_clip=0.01),
        augmentation=Augmentation(alpha=(1.0, 1.0)),
        families=("mlp", "autoencoder", "conv"),
        train_size=2000,
        start="muon-1",
        odd=True,
        outer_iterations=600,
        learning_rate=5e-4,
        final_learning_rate=5e-6,
    )


def celo2_published_data(config: MetaConfig) -> MetaConfig:
    """The same on the image sets of the paper."""
    return replace(celo2(config), tasks="published")


def quick(config: MetaConfig) -> MetaConfig:
    """A quarter of the recipe."""
    return replace(celo2(config), outer_iterations=150)


def celo2_base(config: MetaConfig) -> MetaConfig:
    """Return the recipe of `celo2-base`: no Newton-Schulz, the rule on vectors, Adam as the start."""
    config = celo2(config)
    return replace(
        config,
        inner=replace(config.inner, spec=Spec(newton_schulz=False, everywhere=True)),
        start="adam",
    )


def paper(config: MetaConfig) -> MetaConfig:
    """Return the published recipe but for its 100,000 outer steps.

    PES with 8 antithetic pairs per set, and alpha in 1e-3..1e3.
    """
    return replace(
        config,
        estimator=PES(trajectories=32),
        augmentation=Augmentation(alpha=(1e-3, 1e3)),
        tasks="published",
        learning_rate=5e-5,
        final_learning_rate=5e-5,
        warmup=0,
        global_clip=1e9,  # out of reach: there is none
    )


PRESETS = {
    "celo2": celo2,
    "quick": quick,
    "celo2-published-data": celo2_published_data,
    "celo2-base": celo2_base,
    "paper": paper,
}


def preset(name: str) -> MetaConfig:
    """A configuration by the name of its preset.

    Raises:
        InputError: there is no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}: take one of {', '.join(PRESETS)}")
    return PRESETS[name](MetaConfig())


ESTIMATORS = {kind.__name__: kind for kind in (Unrolled, PES, ES)}


def from_settings(settings: Mapping[str, Any], config: MetaConfig = MetaConfig()) -> MetaConfig:
    """`config` with changes by dotted names, as experiments write them: {"inner.cosine": true}.

    Raises:
        InputError: a name that no configuration has, or a word that is none of a setting's choices.
    """
    if "estimator" in settings:
        if settings["estimator"] not in ESTIMATORS:
            raise InputError(
                f"unknown estimator {settings['estimator']!r}: take one of {', '.join(ESTIMATORS)}"
            )
        config = replace(config, estimator=ESTIMATORS[settings["estimator"]]())
    for name, value in settings.items():
        if name != "estimator":
            config = _changed(
                config, name.split("."), name, tuple(value) if isinstance(value, list) else value
            )
    return config


def _changed(part: Any, path: list[str], name: str, value: Any) -> Any:
    """A dataclass with the field at the end of `path` replaced."""
    first, *rest = path
    kinds = get_type_hints(type(part)) if dataclasses.is_dataclass(part) else {}
    if first not in kinds:
        raise InputError(f"no configuration has a setting {name!r}; look at celo2.meta.config")
    choices = get_args(kinds[first]) if get_origin(kinds[first]) is Literal else ()
    if choices and value not in choices:
        raise InputError(f"{name} is {value!r}; take one of {', '.join(choices)}")
    changed = _changed(getattr(part, first), rest, name, value) if rest else value
    return replace(part, **{first: changed})  # type: ignore[type-var]
