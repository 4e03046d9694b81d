"""Universal-KD: layers compared by what pseudo heads make of them (Wu et al., EMNLP 2021)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from toolchain.distill import extract, matching, objectives, reduction, schedules, transforms
from toolchain.distill.methods.kd import KD
from toolchain.distill.term import Method, Term, method

__all__ = ["UniversalKD"]


@method("universal_kd")
@dataclass(frozen=True, kw_only=True)
class UniversalKD(Method):
    """L = KD(tau, alpha) + gamma sum_l KL(softmax(sum_k eps_lk u_k^T) || softmax(u_l^S)).

    Wu, Rezagholizadeh, Ghaddar, Haidar, Ghodsi, EMNLP 2021, pages 7649-7661: u = W h + b are pseudo
    heads on first-token states, eps_l = softmax over k of <u_l^S, u_k^T>, attention on the logits.
    The teacher's heads learn from the labels alone (term `heads`), from the first `grounding` part
    of the run on by themselves; layers are matched after it. Any width. gamma is the paper's, tau
    and alpha are ours.
    """

    init: ClassVar[Literal["teacher_first_k"]] = "teacher_first_k"
    gamma: float = 0.5
    tau: float = 1.0
    alpha: float = 0.5
    grounding: float = 0.1
    attn_grad: bool = True

    def terms(self) -> tuple[Term, ...]:
        """Return what grounds the teacher's heads, the layers' term and those of KD."""
        heads_on_cls = (transforms.Pool("cls"), transforms.PseudoHead(group="universal_kd"))
        heads = Term(
            "heads",
            extract.hidden,
            objectives.HeadCrossEntropy("teacher"),
            reduction.mean_logits,
            match=matching.EveryTeacherLayer(),
            transforms=heads_on_cls,
        )
        layers = Term(
            "layers",
            extract.hidden,
            objectives.KL(),
            reduction.mean_logits,
            match=matching.AttnWeighted(attn_grad=self.attn_grad),
            transforms=(*heads_on_cls, transforms.Detach("teacher")),
            weight=self.gamma,
            schedule=schedules.Gate(opens=self.grounding),
        )
        return (heads, layers, *KD(tau=self.tau, alpha=self.alpha).terms())
