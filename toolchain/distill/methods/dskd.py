"""DSKD: states of either model go through the other's head and are compared (Zhang et al. 2024)."""

from dataclasses import dataclass, replace

from toolchain.distill import extract, objectives, reduction, transforms
from toolchain.distill.term import Method, Term, method

__all__ = ["DSKD"]


@method("dskd")
@dataclass(frozen=True, kw_only=True)
class DSKD(Method):
    """L = (1 - alpha) CE + alpha (KL(p_ts || q) + CE(y, p_ts) + KL(p || q_st)); arXiv 2406.17328.

    Section 3: p_ts is what the student's head makes of the teacher's last states, projected to the
    student's width; it has no gradient in the KL, and CE trains the projection alone. q_st is what
    the teacher's head makes of the student's states, projected to the teacher's width. Heads of the
    other side rest. alpha = 0.5 as in the authors' code; tau is ours, with tau^2. Vocabularies may
    differ in size, but the tokens must stand at the same places: the paper's attention between
    different tokenizers is not here.
    """

    alpha: float = 0.5
    tau: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return the labels' term and those of both spaces."""
        kl, mean, states = objectives.KL(tau=self.tau), reduction.mean_logits, extract.states
        gold, hard = objectives.HeadCrossEntropy("teacher"), objectives.CrossEntropy()
        to_student = (transforms.Project("teacher", group="dskd"), transforms.Decode("student"))
        own = (transforms.Detach("teacher"), transforms.Decode("student", side="student"))
        in_teacher = (
            transforms.Project("student", group="dskd"),
            transforms.Decode("teacher", side="student"),
            transforms.Decode("teacher"),
        )
        spaces = (
            Term("student_space", states, kl, mean, transforms=(*to_student, *own)),
            Term("projection", states, gold, mean, transforms=to_student),
            Term("teacher_space", states, kl, mean, transforms=in_teacher),
        )
        return (
            *(replace(term, weight=self.alpha) for term in spaces),
            Term("labels", extract.labels, hard, mean, weight=1 - self.alpha),
        )
