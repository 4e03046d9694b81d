"""How several teachers become one: one file per way of weighing them."""

from toolchain.distill.aggregation.aggregation import Aggregation, Lesson, Said
from toolchain.distill.aggregation.bernoulli_keep import BernoulliKeep
from toolchain.distill.aggregation.correctness import Correctness
from toolchain.distill.aggregation.entropy_rank import EntropyRank
from toolchain.distill.aggregation.mean import Mean
from toolchain.distill.aggregation.policy import Policy, reinforce
from toolchain.distill.aggregation.sum import Sum

__all__ = [
    "Aggregation",
    "BernoulliKeep",
    "Correctness",
    "EntropyRank",
    "Lesson",
    "Mean",
    "Policy",
    "Said",
    "Sum",
    "reinforce",
]
