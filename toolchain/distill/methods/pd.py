"""PD: match the teacher's predictions alone, from a pre-trained student (Turc et al. 2019)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction
from toolchain.distill.term import Method, Term, method

__all__ = ["PD"]


@method("pd")
@dataclass(frozen=True, kw_only=True)
class PD(Method):
    """The student's own language model first, then CE(p_T, p_S) at tau = 1; arXiv 1908.08962, 2.

    The stage "general" pre-trains the student on raw text (data.raw) without any teacher; the stage
    "pred" has soft labels alone, of the task's rows and, as in the paper, of texts without labels
    (data.unlabelled). Without raw text it presupposes a student pre-trained elsewhere
    (`student.path`): from a random start it is then nothing but KD without labels. Soft
    cross-entropy is the KL plus the teacher's entropy. The paper's optional last step is a run of
    finetune from the result.
    """

    def terms(self) -> tuple[Term, ...]:
        """Return one term per stage."""
        mean = reduction.mean_logits
        return (
            Term("pretrain", extract.labels, objectives.CrossEntropy(), mean, stage="general"),
            Term("soft", extract.logits, objectives.SoftCrossEntropy(tau=1.0), mean),
        )
