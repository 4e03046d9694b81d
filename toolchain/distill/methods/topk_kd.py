"""Top-k KD: KL over the teacher's k largest outcomes and one rest (Anshumann et al. 2025)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction
from toolchain.distill.term import Method, Term, method

__all__ = ["TopKKD"]


@method("topk_kd")
@dataclass(frozen=True, kw_only=True)
class TopKKD(Method):
    """L = (1 - alpha) CE + alpha tau^2 KL over k outcomes and one of the rest; arXiv 2503.16870.

    The bucket keeps the mass that a plain top-k would renormalise away, which is biased; the KL is
    that of a coarser distribution, never above the full one. The paper itself prefers sampled ids,
    which are unbiased; this is the exact sparse loss for stored targets of k = 64. With k outcomes
    or fewer it is kd.
    """

    k: int = 64
    tau: float = 1.0
    alpha: float = 0.9

    def terms(self) -> tuple[Term, ...]:
        """Return the soft and the hard term."""
        mean = reduction.mean_logits
        soft = objectives.TopKKL(k=self.k, tau=self.tau)
        hard = objectives.CrossEntropy()
        return (
            Term("soft", extract.logits, soft, mean, weight=self.alpha),
            Term("labels", extract.labels, hard, mean, weight=1 - self.alpha),
        )
