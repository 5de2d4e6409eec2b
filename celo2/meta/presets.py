"""Configurations by name, each an edit of the default."""

from __future__ import annotations

import math
from dataclasses import replace

from celo2.errors import InputError
from celo2.meta.config import Augmentation, MetaConfig
from celo2.meta.estimators import PES, Unrolled
from celo2.meta.inner import InnerLoop
from celo2.meta.starts import FIRST_PHASE
from celo2.rule.spec import LEAN, Spec
from celo2.tasks.registry import SYNTHETIC


def celo2(config: MetaConfig) -> MetaConfig:
    """Return the recipe of the theta that ships as `celo2`; docs/meta-training.md says why."""
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
        outer_steps=600,
        learning_rate=5e-4,
        final_learning_rate=5e-6,
    )


def celo2_published_data(config: MetaConfig) -> MetaConfig:
    """Return the recipe of `celo2` on the image sets of the paper."""
    return replace(celo2(config), tasks="published")


def quick(config: MetaConfig) -> MetaConfig:
    """Return a quarter of the recipe of `celo2`."""
    return replace(celo2(config), outer_steps=150)


def celo2_total_steps(config: MetaConfig) -> MetaConfig:
    """Return the recipe of `celo2` for networks trained as `total_steps=` does.

    Their learning rates and weight decay are those of the shipped policy, times a factor.
    """
    config = celo2(config)
    inner = replace(
        config.inner, policy="celo2", adam="front-end", cosine=False, learning_rate=(0.5, 2.0)
    )
    return replace(config, inner=inner)


def varied(config: MetaConfig) -> MetaConfig:
    """Return `celo2-total-steps` on networks of more kinds, for runs of 100 to 5,000 steps.

    Such runs do not exhaust the data of the synthetic families.
    """
    config = celo2_total_steps(config)
    inner = replace(config.inner, horizon=(100, 5000), loss_ceiling=1.5 * math.log(256))
    families = (*config.families, "wide-mlp", "deep-mlp", *SYNTHETIC)
    return replace(config, inner=inner, families=families)


def celo2_lean(config: MetaConfig) -> MetaConfig:
    """Return the recipe of `celo2-lean`: that of `celo2` for a rule with half the state."""
    config = celo2(config)
    return replace(config, inner=replace(config.inner, spec=LEAN))


def celo2_base(config: MetaConfig) -> MetaConfig:
    """Return the recipe of `celo2-base`: no Newton-Schulz, the rule on vectors, Adam as start."""
    config = celo2(config)
    return replace(
        config,
        inner=replace(config.inner, spec=Spec(newton_schulz=False, everywhere=True)),
        start="adam",
    )


def adapt(config: MetaConfig) -> MetaConfig:
    """Return a few outer steps from the shipped theta, for a family of one's own."""
    return replace(celo2(config), start="celo2", outer_steps=150)


def celo_mlp(config: MetaConfig) -> MetaConfig:
    """Return the first phase of a small Celo: its MLP, by unrolled gradients.

    The meta-loss is that of `celo2`, on the small image MLPs alone; the published Celo has PES and
    100,000 outer steps.
    """
    config = celo2(config)
    inner = replace(config.inner, learner="celo-mlp", learning_rate=(1.0, 1.0), cosine=False)
    return replace(
        config,
        inner=inner,
        families=("mlp",),
        start="random",
        odd=False,
        outer_steps=1000,
        learning_rate=3e-3,
        final_learning_rate=3e-5,
    )


def celo(config: MetaConfig) -> MetaConfig:
    """Return the second phase of a small Celo: the LSTM that scales its MLP's steps, by PES."""
    config = celo_mlp(config)
    return replace(
        config,
        inner=replace(config.inner, learner="celo"),
        estimator=PES(trajectories=8, truncation_length=50),
        start=FIRST_PHASE,
    )


def velo(config: MetaConfig) -> MetaConfig:
    """Return a small VeLO, all of it in one phase, by unrolled gradients."""
    config = celo_mlp(config)
    return replace(config, inner=replace(config.inner, learner="velo"))


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
        global_clip=1e9,  # out of reach: the paper has none
    )


PRESETS = {
    "celo2": celo2,
    "quick": quick,
    "celo2-published-data": celo2_published_data,
    "celo2-total-steps": celo2_total_steps,
    "varied": varied,
    "celo2-lean": celo2_lean,
    "celo2-base": celo2_base,
    "adapt": adapt,
    "celo-mlp": celo_mlp,
    "celo": celo,
    "velo": velo,
    "paper": paper,
}


def preset(name: str) -> MetaConfig:
    """Return a configuration by the name of its preset.

    Raises:
        InputError: there is no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}: take one of {', '.join(PRESETS)}")
    return PRESETS[name](MetaConfig())
