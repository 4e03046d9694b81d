"""DIST: correlate predictions with the teacher's, over classes and samples (Huang et al. 2022)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction, transforms
from toolchain.distill.term import Method, Term, method

__all__ = ["DIST"]


@method("dist")
@dataclass(frozen=True, kw_only=True)
class DIST(Method):
    """L = CE + tau^2 (beta mean_b (1 - r(S[b,:], T[b,:])) + gamma mean_c (1 - r(S[:,c], T[:,c]))).

    S and T are probabilities, r is Pearson's correlation; arXiv 2205.10536. beta = gamma = 2 and
    tau = 1; the paper's CIFAR runs have tau = 4. The second part compares classes over a batch: it
    wants 8 rows or more, and for a language model's vocabulary it is memory-hungry (gamma = 0
    leaves it out).
    """

    beta: float = 2.0
    gamma: float = 2.0
    tau: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return the two correlations and the labels."""
        probabilities = (transforms.Softmax(tau=self.tau),)
        return (
            Term(
                "inter",
                extract.logits,
                objectives.PearsonInter(),
                reduction.mean_logits,
                transforms=probabilities,
                weight=self.beta * self.tau**2,
            ),
            Term(
                "intra",
                extract.logits,
                objectives.PearsonIntra(),
                reduction.mean_logits,
                transforms=probabilities,
                weight=self.gamma * self.tau**2,
            ),
            Term("labels", extract.labels, objectives.CrossEntropy(), reduction.mean_logits),
        )
