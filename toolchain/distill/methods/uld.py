"""ULD: match sorted probabilities, across unequal vocabularies (Boizard et al. 2025)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction
from toolchain.distill.term import Method, Term, method

__all__ = ["ULD"]


@method("uld")
@dataclass(frozen=True, kw_only=True)
class ULD(Method):
    """L = CE + weight sum |sorted p_S - sorted p_T|, weight = 1.5; arXiv 2402.12030.

    The shorter distribution is padded with zeros. Token identity plays no part. With another
    tokenizer the teacher reads the same text in tokens of its own, and the first min(N_S, N_T)
    supervised ones of each text are compared by their place; the mean is over these, the paper's
    over the batch.
    """

    weight: float = 1.5

    def terms(self) -> tuple[Term, ...]:
        """Return the soft and the hard term."""
        mean = reduction.mean_logits
        soft = objectives.L1Sorted()
        return (
            Term("sorted", extract.logits, soft, mean, weight=self.weight),
            Term("labels", extract.labels, objectives.CrossEntropy(), mean),
        )
