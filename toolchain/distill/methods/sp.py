"""SP: match which sequences of a batch excite a layer alike (Tung and Mori 2019)."""

from dataclasses import dataclass
from typing import Literal

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.methods.finetune import FineTune
from toolchain.distill.term import Method, Term, method

__all__ = ["SP"]


@method("sp")
@dataclass(frozen=True, kw_only=True)
class SP(Method):
    """L = CE(y, z_S) + gamma / B^2 |u(G_S) - u(G_T)|_F^2, G = Q Q'; arXiv 1907.09682.

    Q (B, D) are pooled states of the last block and u divides each row by its length. gamma = 3000
    is the paper's. Difference: the paper flattens positions into Q, which texts of different length
    have not. Add predictions with sp+kd. Relations are those of the
    whole batch, over all ranks.
    """

    gamma: float = 3000.0
    pool: Literal["cls", "mean"] = "mean"

    def terms(self) -> tuple[Term, ...]:
        """Return the similarities and the labels."""
        chain = (transforms.Pool(self.pool), transforms.Gram("sample"), transforms.L2Norm())
        similar = Term(
            "similarity",
            extract.hidden,
            objectives.MSE(),
            reduction.mean_sample,
            match=matching.Last(),
            transforms=chain,
            weight=self.gamma,
        )
        return (similar, *FineTune().terms())
