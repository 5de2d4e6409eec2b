"""The optimizers that `celo2 bench` knows by name, and those that a user names.

SOAP and NorMuon are not among them: no package of PyPI has them as optax transformations.
"""

from __future__ import annotations

import dataclasses
import functools
import pkgutil
from collections.abc import Callable
from typing import Any

import optax

from celo2.errors import InputError
from celo2.evaluate.baselines.adamw import ADAMW
from celo2.evaluate.baselines.base import Baseline, Grid, Settings, schedule
from celo2.evaluate.baselines.celo2 import celo2, celo2_total_steps
from celo2.evaluate.baselines.handwritten import (
    LION,
    PRODIGY,
    PRODIGY_AS_PUBLISHED,
    SCHEDULE_FREE,
    SGD,
)
from celo2.evaluate.baselines.muon import MUON, TWO_AVERAGES
from celo2.evaluate.baselines.muon_policy import muon_total_steps
from celo2.evaluate.baselines.tuning_free import celo, velo
from celo2.theta import load_theta


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An entry of the registry."""

    title: str
    make: Callable[[], Baseline]
    """Learned numbers are read at the call."""


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer("AdamW", lambda: ADAMW),
    "muon": Optimizer("Muon", lambda: MUON),
    "celo2": Optimizer("Celo2", lambda: celo2(load_theta("celo2"))),
    "muon-two-averages": Optimizer("Muon, two averages", lambda: TWO_AVERAGES),
    "schedule-free": Optimizer("schedule-free AdamW", lambda: SCHEDULE_FREE),
    "prodigy": Optimizer("Prodigy", lambda: PRODIGY),
    "lion": Optimizer("Lion", lambda: LION),
    "sgd": Optimizer("SGD with momentum", lambda: SGD),
    "celo2-lean": Optimizer("Celo2-lean", lambda: celo2(load_theta("celo2-lean"))),
    "celo2-base": Optimizer("Celo2-base", lambda: celo2(load_theta("celo2-base"))),
    "celo2-total-steps": Optimizer(
        "Celo2, nothing tuned", lambda: celo2_total_steps(load_theta("celo2"))
    ),
    "muon-total-steps": Optimizer(
        "Muon by Celo2's policy", lambda: muon_total_steps(load_theta("celo2"))
    ),
    "celo": Optimizer("Celo, nothing tuned", celo),
    "celo-small": Optimizer("small Celo, nothing tuned", lambda: celo("celo-small")),
    "velo-small": Optimizer("small VeLO, nothing tuned", velo),
    "prodigy-as-published": Optimizer("Prodigy, nothing tuned", lambda: PRODIGY_AS_PUBLISHED),
}
"""In the order in which tables show them."""


def baselines(names: tuple[str, ...]) -> dict[str, Baseline]:
    """Return optimizers by title.

    Args:
        names: of the registry, or `module:function` (see `own`).

    Raises:
        InputError: an unknown name, or a function that cannot be imported.
    """
    found = {}
    for name in names:
        if name in OPTIMIZERS:
            found[OPTIMIZERS[name].title] = OPTIMIZERS[name].make()
        elif ":" in name:
            found[name] = own(name)
        else:
            known = ", ".join(OPTIMIZERS)
            raise InputError(
                f"unknown optimizer {name!r}: take some of {known}, or give your own as "
                "module:function"
            )
    return found


OWN_LEARNING_RATES = (1e-3, 2e-3, 4e-3)


def own(path: str) -> Baseline:
    """Return a user's own optimizer, a function from an optax schedule to a transformation.

    The object may also be a `Baseline`, which has more than a learning rate to tune. Records know
    it by its path, so what has changed needs another name or another file of records.

    Raises:
        InputError: it cannot be imported, or is no function.
    """
    try:
        found = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"optimizer {path!r} cannot be imported ({error}); give module:function"
        ) from error
    if not (callable(found) or isinstance(found, Baseline)):
        raise InputError(f"optimizer {path!r} is a {type(found).__name__}; give module:function")
    if isinstance(found, Baseline):
        return dataclasses.replace(found, name=path)
    return Baseline(path, functools.partial(_build_own, found), Grid(OWN_LEARNING_RATES))


def _build_own(
    function: Callable[[Any], Any], settings: Settings, steps: int
) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(function(schedule(settings, steps)))
