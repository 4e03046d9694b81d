"""SeqKD: train on the teacher's beam search instead of the data's answers (Kim and Rush 2016)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, operators, reduction
from toolchain.distill.operators import Operator
from toolchain.distill.term import Method, Term, method

__all__ = ["SeqKD"]


@method("seqkd")
@dataclass(frozen=True, kw_only=True)
class SeqKD(Method):
    """L = -log p_S(answer found by beam search in the teacher); arXiv 1606.07947, section 3.2.

    A beam of 5. `closest` is Seq-Inter (section 3.3): of the beam's answers the one closest to the
    reference, by smoothed sentence BLEU. The student reads text, so the tokenizers may differ.
    Decoders only; `seqkd+kd` adds the word level (section 3.1) on the same answers.
    """

    beams: int = 5
    closest: bool = False

    def terms(self) -> tuple[Term, ...]:
        """Return the likelihood of the answers, which stand in the data by then."""
        hard = objectives.CrossEntropy()
        return (Term("labels", extract.labels, hard, reduction.mean_logits),)

    def operators(self) -> tuple[Operator, ...]:
        """Return what writes the answers."""
        return (operators.TeacherGenerate(self.beams, self.closest),)
