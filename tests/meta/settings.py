"""A small meta-training: one quadratic family, eight trajectories, thirty outer steps."""

from celo2.meta import inner
from celo2.meta.config import MetaConfig
from celo2.meta.estimators import Unrolled
from tests.families import Quadratic

FAMILY = Quadratic()
LOOP = inner.InnerLoop(learning_rate=(0.01, 0.01), horizon=(20, 60))
ESTIMATOR = Unrolled(trajectories=8, truncation_length=10)
CONFIG = MetaConfig(inner=LOOP, estimator=ESTIMATOR, outer_steps=30, warmup=5, learning_rate=1e-2)
