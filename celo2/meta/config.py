"""Everything that decides the result of a meta-training run, and its form in JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from celo2.errors import InputError
from celo2.meta.estimators import ES, PES, Unrolled
from celo2.meta.inner import InnerLoop
from celo2.rule.spec import as_tuples
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
    """Image sets at 8x8: the four that need no download, or MNIST, Fashion-MNIST, CIFAR-10 and
    street digits."""
    color: bool = False
    """Three channels instead of their mean, 192 inputs instead of 64."""
    families: tuple[str, ...] = ("mlp",)
    """Networks on those images or on data of their own (see `celo2.tasks.registry`), or your own as
    module:function, a function without arguments that returns a `TaskFamily`."""
    train_size: int | None = None
    """Images that a task trains on, a window of at most half of its set; None: all of them, and
    none is held out."""
    start: str = "random"
    """Theta at first: random, celo, muon-0.3, muon-1 or adam (see `celo2.meta.starts`), the name of
    a theta that ships, or the path of a file, whose content is not compared at a resume."""
    odd: bool = False
    """Keep theta among the odd rules: see `celo2.meta.symmetry`."""
    seed: int = 0
    """Of theta's start, of the image sets and of every draw of a task, a batch and a horizon."""
    outer_steps: int = 3000
    """Updates of theta."""
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
        if self.inner.learner != "rule" and (self.odd or self._imitates):
            raise InputError(
                f"odd and imitation are for the rule, and this run learns {self.inner.learner}; "
                "leave them off"
            )
        if self.inner.learner != "rule" and (
            self.inner.learning_rate != (1.0, 1.0) or self.inner.cosine
        ):
            raise InputError(
                f"{self.inner.learner} has no learning rate, and this run has one of "
                f"{self.inner.learning_rate}; give (1, 1), without the cosine"
            )
        if self.outer_steps <= self.warmup:
            raise InputError(
                f"outer_steps is {self.outer_steps}; "
                f"give more than the {self.warmup} of the warm-up"
            )

    @property
    def _imitates(self) -> bool:
        return isinstance(self.estimator, Unrolled) and any(self.estimator.imitation)


ESTIMATORS = {kind.__name__: kind for kind in (Unrolled, PES, ES)}


def to_settings(config: MetaConfig) -> dict[str, Any]:
    """Return the configuration as flat JSON: dotted names to numbers, words and lists.

    "estimator" names the kind of the estimator.
    """
    return {"estimator": type(config.estimator).__name__, **_flat("", config)}


def _flat(prefix: str, part: Any) -> dict[str, Any]:
    settings = {}
    for field in dataclasses.fields(part):
        name, value = prefix + field.name, getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            settings |= _flat(f"{name}.", value)
        else:
            settings[name] = _as_lists(value)
    return settings


def _as_lists(value: Any) -> Any:
    """Return a tuple, and the tuples in it, as lists, as JSON has them."""
    return list(map(_as_lists, value)) if isinstance(value, tuple) else value


def from_settings(settings: Mapping[str, Any], config: MetaConfig = MetaConfig()) -> MetaConfig:
    """Return `config` with changes by dotted names, such as {"inner.cosine": true}.

    Raises:
        InputError: a name that no configuration has, or a word that is none of a setting's choices.
    """
    if "estimator" in settings:
        kind = settings["estimator"]
        if kind not in ESTIMATORS:
            raise InputError(f"unknown estimator {kind!r}: take one of {', '.join(ESTIMATORS)}")
        config = replace(config, estimator=ESTIMATORS[kind]())
    return _changed(config, {k: v for k, v in settings.items() if k != "estimator"})


def _changed(part: Any, settings: Mapping[str, Any], prefix: str = "") -> Any:
    """Return a dataclass with fields replaced, all of one dataclass at once: some go together."""
    kinds = get_type_hints(type(part)) if dataclasses.is_dataclass(part) else {}
    changes: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        first, _, rest = name.partition(".")
        if first not in kinds:
            raise InputError(
                f"no configuration has a setting {prefix + name!r}; look at celo2.meta.config"
            )
        if rest:
            inner.setdefault(first, {})[rest] = value
            continue
        choices = get_args(kinds[first]) if get_origin(kinds[first]) is Literal else ()
        if choices and value not in choices:
            raise InputError(f"{prefix + name} is {value!r}; take one of {', '.join(choices)}")
        changes[first] = as_tuples(value)
    for first, fields in inner.items():
        changes[first] = _changed(getattr(part, first), fields, f"{prefix}{first}.")
    return replace(part, **changes)  # type: ignore[type-var]
