"""Near to one's own teacher state, far from those of the batch's other sequences.

Shape letters: B batch, N tokens, F features.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.objective import Objective, at_least_fp32
from toolchain.distill.shapes import Shape, Unfit
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["CosNCE"]


@dataclass(frozen=True)
class CosNCE(Objective):
    """g_ii + mean over k != i of [2 - (g_ik - g_ii)] / 2, g = 1 - cos; arXiv 2012.07335.

    LRC-BERT's contrastive loss of anchor i, equal to 1 + 1.5 g_ii - 0.5 mean_k g_ik: 0.5 for equal
    models with orthonormal samples. g_ik is the mean over the tokens that are real in row i of the
    student and in row k of the teacher (position by position). The negatives are the other rows of
    the batch, of all ranks, so micro-batches do not add up to a batch; a lone row has none and its
    value is g_ii.
    """

    key: ClassVar[str] = "cosnce"
    across: ClassVar[bool] = True
    rowwise: ClassVar[bool] = False
    zero_at_equality: ClassVar[bool] = False

    def resolve(self, student: Shape, teacher: Shape) -> Objective:
        """Require one vector per sequence or per token."""
        if student.positions not in ("cls", "tok"):
            raise Unfit(
                "cosnce contrasts sequences by the vectors of their tokens, and there are none",
                "read hidden states or embeddings",
            )
        return super().resolve(student, teacher)

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(B, N, F) or (B, F) twice -> one value per anchor (B,)."""
        distance_BB = self.distances(student, teacher, context)
        own_B = distance_BB.diagonal()
        others = distance_BB.shape[0] - 1
        if not others:
            return own_B
        mean_B = (distance_BB.sum(-1) - own_B) / others
        return own_B + (2 - (mean_B - own_B)) / 2

    @staticmethod
    def distances(student: "Tensor", teacher: "Tensor", context: Context) -> "Tensor":
        """Return g_ik, (B, B), as one product of matrices: nothing of B B N is ever formed."""
        unit = torch.nn.functional.normalize
        s, t = (unit(at_least_fp32(x), dim=-1) for x in (student, teacher))
        if s.ndim == 2:
            return 1 - s @ t.T
        mask_BN = context.mask_BN.to(s.dtype)
        # Masked tokens are zeros, so a product over tokens and features counts common ones alone.
        s, t = ((x * mask_BN.unsqueeze(-1)).flatten(1) for x in (s, t))
        return 1 - s @ t.T / (mask_BN @ mask_BN.T).clamp(min=1)
