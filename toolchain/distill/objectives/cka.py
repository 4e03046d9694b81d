"""CKA: how alike two sets of vectors are, whatever their width, rotation, shift and scale."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.objective import Objective, at_least_fp32
from toolchain.distill.reduction import REDUCTIONS, Reduction
from toolchain.distill.shapes import Footprint, Shape, Unfit

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["CKA"]

_LEAST = 1e-12


@dataclass(frozen=True)
class CKA(Objective):
    """1 - |Y'X|^2 / (|X'X| |Y'Y|), X and Y centred; linear CKA (arXiv 1905.00414).

    Over all real tokens of the micro-batch, or over its sequences after a pooling; then it needs
    many, for few vectors of many features are alike by chance. One value () of the batch.
    """

    key: ClassVar[str] = "cka"
    across: ClassVar[bool] = True
    rowwise: ClassVar[bool] = False

    def resolve(self, student: Shape, teacher: Shape) -> "CKA":  # noqa: ARG002
        """Accept vectors of any two widths."""
        plain = student.layers is None and student.split is None
        if student.positions not in ("tok", "cls") or not student.features or not plain:
            raise Unfit("cka compares vectors", "extract hidden, emb, q, k or v")
        return self

    def default_reduction(self, shape: Shape) -> Reduction:  # noqa: ARG002
        """Return the mean over batches."""
        return REDUCTIONS["mean_batch"]

    def memory(self, student: Shape, teacher: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of both sides centred, and of products of the smaller kind."""
        rows = batch * tokens if student.positions == "tok" else batch
        widths = student.features or 1, teacher.features or 1
        side = rows if rows < min(widths) else max(widths)
        centred = rows * sum(widths)
        return Footprint(4 * (centred + 3 * side**2), 4 * (centred + 2 * side**2))

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(B, N, F) or (B, F) and (.., G) -> ()."""
        x, y = (_centred(at_least_fp32(side), context) for side in (student, teacher))
        own = (_alike(x, x) * _alike(y, y)).sqrt()
        return 1 - _alike(x, y) / own.clamp(min=_LEAST)


def _centred(values: "Tensor", context: Context) -> "Tensor":
    """Return rows minus their mean, (R, F); rows of padding are zero."""
    if values.ndim == 2:
        return values - values.mean(0)
    mask = context.mask_BN.to(values.dtype).flatten().unsqueeze(-1)
    rows = values.flatten(0, 1)
    return (rows - (rows * mask).sum(0) / mask.sum()) * mask


def _alike(x: "Tensor", y: "Tensor") -> "Tensor":
    """Return |Y'X|^2, by whichever products are smaller: of features or of rows."""
    if x.shape[0] < min(x.shape[1], y.shape[1]):
        return ((x @ x.T) * (y @ y.T)).sum()
    return (y.T @ x).square().sum()
