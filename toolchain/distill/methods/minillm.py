"""MiniLLM: reverse KL of whole texts which both models write, by its gradient (Gu et al. 2024)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, operators, reduction
from toolchain.distill.operators import Operator
from toolchain.distill.term import Method, Term, method

__all__ = ["MiniLLM"]


@method("minillm")
@dataclass(frozen=True, kw_only=True)
class MiniLLM(Method):
    """Gradient of KL(Q || P) over texts y drawn from alpha P + (1 - alpha) Q; arXiv 2306.08543.

    L = mean_t w_t KL(q || p)_t - mean_t min(w_t R_t, clip(w_t) R_t) + lm CE, w_t = q(y_t) / m(y_t),
    R_t the mean of log p - log q over the tokens behind y_t (`length_norm`), as eq. 7 and algorithm
    1 have it. The last term is the likelihood of the data's own texts. alpha and eps of the clip
    are 0.2, as there.

    Differences: one update per sample of texts, where the paper takes several; the language
    modelling loss is that of the task's answers (of plain text, all of it), there being no second
    corpus beside; the mean of R_t counts the T - t terms it has, not T - t - 1. From the authors'
    code: w_t weighs the exact part too, as in eq. 7; R_t is not whitened, not clipped, and leaves
    out y_t's own reward, which the exact part has. Texts are sampled without dropout, which q in
    w_t has where the student has it. A student should be fine-tuned before, as theirs are. Decoders
    and one teacher only.
    """

    alpha: float = 0.2
    clip: float | None = 0.2
    length_norm: bool = True
    lm: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return the exact part, the long-term part, and the likelihood of the data."""
        view, mean = operators.TeacherMixed.key, reduction.mean_logits
        single = objectives.NextRKL(alpha=self.alpha)
        long = objectives.LongReturn(alpha=self.alpha, clip=self.clip, length_norm=self.length_norm)
        return (
            Term("single", extract.logits, single, mean, view=view),
            Term("long", extract.logits, long, mean, view=view),
            Term("labels", extract.labels, objectives.CrossEntropy(), mean, weight=self.lm),
        )

    def operators(self) -> tuple[Operator, ...]:
        """Return what writes the texts."""
        return (operators.TeacherMixed(self.alpha),)
