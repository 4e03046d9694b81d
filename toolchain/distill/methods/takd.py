"""TAKD: assistants of middle size hand the teacher down to the student (Mirzadeh et al. 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from toolchain.distill.methods.kd import KD
from toolchain.distill.term import Method, Term, method

__all__ = ["TAKD"]


@method("takd")
@dataclass(frozen=True, kw_only=True)
class TAKD(Method):
    """Teacher -> assistant -> ... -> student, each hop by KD; arXiv 1902.03393.

    L = (1 - alpha) CE(y, z_S) + alpha tau^2 KL(p_A(tau) || p_S(tau)), A being the model before.

    The assistants are named in the recipe (`assistants:`). Any other method makes the same chain
    when the recipe names assistants, every hop using that method; this one is KD and asks for them.
    The paper advises the size whose accuracy lies midway, which is not known beforehand: the
    geometric mean of the sizes is what is suggested.
    """

    needs_assistants: ClassVar[int] = 1
    tau: float = 4.0
    alpha: float = 0.9

    def terms(self) -> tuple[Term, ...]:
        """Return the terms of KD, for every hop."""
        return KD(tau=self.tau, alpha=self.alpha).terms()
