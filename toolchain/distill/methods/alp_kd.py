"""ALP-KD: each layer learns from an attention over all teacher layers (Passban et al. 2021)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.term import Method, Term, method

__all__ = ["ALPKD"]


@method("alp_kd")
@dataclass(frozen=True, kw_only=True)
class ALPKD(Method):
    """L = beta CE + eta KD(tau) + lambda sum_l MSE(h_l^S, c_l), c_l = sum_k eps_lk h_k^T.

    arXiv 2012.14022, on first-token states with eps_l = softmax over k of <h_l^S, h_k^T>. Weights
    0.1 : 0.7 : 0.2 and tau = 20 are those of a public reimplementation.
    `buckets` gives ALP-NO and ALP-PO. Widths must be equal, unless `project` takes the student's
    states to the teacher's width, where the products are then formed.
    """

    init: ClassVar[Literal["teacher_first_k"]] = "teacher_first_k"
    tau: float = 20.0
    labels: float = 0.1
    soft: float = 0.7
    layers: float = 0.2
    buckets: Literal["all", "separate", "overlapping"] = "all"
    attn_grad: bool = True
    project: bool = False

    def terms(self) -> tuple[Term, ...]:
        """Return the layers' term, the soft and the hard one."""
        mean, kl = reduction.mean_logits, objectives.KL(tau=self.tau)
        hard = objectives.CrossEntropy()
        project = (transforms.Project(),) if self.project else ()
        layers = Term(
            "layers",
            extract.hidden,
            objectives.MSE(),
            reduction.mean_feat_mean_cls,
            match=matching.AttnWeighted(attn_grad=self.attn_grad, buckets=self.buckets),
            transforms=(transforms.Pool("cls"), *project),
            weight=self.layers,
        )
        return (
            layers,
            Term("soft", extract.logits, kl, mean, weight=self.soft),
            Term("labels", extract.labels, hard, mean, weight=self.labels),
        )
