"""What is meta-learned: Celo2's rule, and Celo and VeLO beside it."""

from celo2.meta.learners.base import Learner, Name, Run, Weights
from celo2.meta.learners.baselines import Baseline
from celo2.meta.learners.rule import Rule

__all__ = ["Baseline", "Learner", "Name", "Rule", "Run", "Weights"]
