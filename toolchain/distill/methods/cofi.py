"""CoFi: prune blocks, heads and features under layerwise distillation (Xia et al. 2022)."""

from dataclasses import dataclass
from typing import ClassVar

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.surgery import L0Masks
from toolchain.distill.term import Method, Start, Term, method

__all__ = ["CoFi"]


@method("cofi")
@dataclass(frozen=True, kw_only=True)
class CoFi(Method):
    """L = lambda KD + (1 - lambda) sum_i MSE(W H_m(i)^S, H_i^T), and L0 masks; arXiv 2204.00408.

    Equations 3-6 and the Lagrangian of section 3.1; lambda of 0.1, 0.3 or 0.5 in the paper, tau = 2
    in the authors' code. The student starts as the teacher; `sparsity` is the part of its blocks'
    weights that goes; m(i) is one of the blocks whose masks stand. Differences: what is left is cut
    to one size in every block, for that is what configurations can say (DECISIONS.md); one stage
    holds pruning and, from `until` on, the final training of the fixed shape; masks learn faster in
    short runs.
    """

    init: ClassVar[Start | None] = "teacher_copy"
    sparsity: float = 0.6
    balance: float = 0.1
    tau: float = 2.0
    warmup: float = 0.2
    until: float = 0.7
    rate: float = 0.01

    def terms(self) -> tuple[Term, ...]:
        """Return the terms on predictions and on layers."""
        kl, mse = objectives.KL(tau=self.tau), objectives.MSE()
        nearest, project = matching.DynamicArgmin(), (transforms.Project(),)
        states = reduction.mean_feat_mean_tok
        layers = Term(
            "layers", extract.hidden, mse, states, nearest, project, weight=1 - self.balance
        )
        return (
            Term("soft", extract.logits, kl, reduction.mean_logits, weight=self.balance),
            layers,
        )

    def surgery(self) -> L0Masks:
        """Return the masks."""
        return L0Masks(sparsity=self.sparsity, warmup=self.warmup, until=self.until, rate=self.rate)
