"""Plain fine-tuning: the labels alone. Teachers are made with it, and it is the fair baseline."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction
from toolchain.distill.term import Method, Term, method

__all__ = ["FineTune"]


@method("finetune")
@dataclass(frozen=True, kw_only=True)
class FineTune(Method):
    """L = CE(y, z_S). Needs no teacher."""

    def terms(self) -> tuple[Term, ...]:
        """Return the one term."""
        return (Term("labels", extract.labels, objectives.CrossEntropy(), reduction.mean_logits),)
