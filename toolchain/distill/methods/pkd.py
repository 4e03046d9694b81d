"""PKD: match the normalised first-token states of every k-th layer (Sun et al. 2019)."""

from dataclasses import dataclass

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.methods.kd import KD
from toolchain.distill.term import Method, Term, method

__all__ = ["PKD"]


@method("pkd")
@dataclass(frozen=True, kw_only=True)
class PKD(Method):
    """L = KD(tau, alpha) + beta sum_l |u(h_l^S) - u(h_g(l)^T)|^2, u(h) = h / |h|; arXiv 1908.09355.

    Equation 7 with PKD-Skip: the final block is left out, the logits supervise it. Each summand is
    2 - 2 cos, summed over features; public code averages over features, so its beta = 100 at
    width 768 is 0.13 here. Widths must be equal, unless `project` takes the student's states to the
    teacher's width, which the paper does not.
    """

    tau: float = 5.0
    alpha: float = 0.5
    beta: float = 0.13
    project: bool = False

    def terms(self) -> tuple[Term, ...]:
        """Return the patient term and those of KD."""
        project = (transforms.Project(),) if self.project else ()
        patient = Term(
            "patient",
            extract.hidden,
            objectives.MSE(),
            reduction.sum_feat_mean_cls,
            match=matching.Skip(),
            transforms=(transforms.Pool("cls"), *project, transforms.L2Norm()),
            weight=self.beta,
        )
        return (patient, *KD(tau=self.tau, alpha=self.alpha).terms())
