"""The less certain the student is of a row, the smaller the teacher it listens to."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from toolchain.distill.aggregation.aggregation import Aggregation, Said
from toolchain.distill.objectives.objective import at_least_fp32
from toolchain.distill.shapes import Unfit
from toolchain.lazy import lazy
from toolchain.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["EntropyRank"]


@dataclass(frozen=True)
class EntropyRank(Aggregation):
    """u = H(p_S) / log C decides between teachers ordered by size (Dynamic KD, arXiv 2109.11295).

    "hard" ranks the batch by u and cuts the ranks into K equal buckets: the most uncertain rows
    learn from the smallest teacher, the most certain from the largest, each row from one. "soft"
    gives the teacher at place r in [0, 1] from smallest to largest 2 (u (1 - r) + (1 - u) r), which
    sums to K: twice the paper's u and 1 - u for two teachers.

    `order` holds the teachers' numbers from the smallest to the largest, found from their sizes.
    """

    key: ClassVar[str] = "entropy_rank"
    reads_teachers: ClassVar[bool] = False
    how: Literal["hard", "soft"] = "soft"
    order: tuple[int, ...] = ()

    def resolve(self, student: ModelSpec, teachers: Sequence[ModelSpec]) -> "EntropyRank":
        """Order the teachers by size."""
        if student.task == "regress":
            raise Unfit(
                "a regression has one number and no entropy to be uncertain by",
                "use mt_bert, or kd with several teachers",
            )
        if student.task == "qa":
            raise Unfit(
                "it ranks rows by their entropy, and those of questions have other numbers of "
                "outcomes",
                "use mt_bert, or kd with several teachers",
            )
        order = sorted(range(len(teachers)), key=lambda k: teachers[k].params())
        return dataclasses.replace(self, order=tuple(order))

    def weights(self, said: Said, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """Return weights (K, P) in the order of the teachers."""
        order = self.order or tuple(range(len(said.teachers)))
        u_P = uncertainty(said.student)
        ordered = _buckets(u_P, len(order)) if self.how == "hard" else _between(u_P, len(order))
        weights = torch.empty_like(ordered)
        weights[list(order)] = ordered
        return weights


def uncertainty(logits: "Tensor") -> "Tensor":
    """Return H(softmax(z)) / log C in [0, 1] of logits (P, C)."""
    log_p = at_least_fp32(logits).log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1) / math.log(logits.shape[-1])


def _buckets(u_P: "Tensor", teachers: int) -> "Tensor":
    """Return one 1 per row, (K, P): ranks from uncertain to certain, cut into equal parts."""
    rows = u_P.shape[0]
    ranks = torch.empty(rows, dtype=torch.long, device=u_P.device)
    ranks[u_P.argsort(descending=True, stable=True)] = torch.arange(rows, device=u_P.device)
    bucket_P = ranks * teachers // max(1, rows)
    weights: Tensor = torch.nn.functional.one_hot(bucket_P, teachers).T.to(u_P.dtype)
    return weights


def _between(u_P: "Tensor", teachers: int) -> "Tensor":
    """Return weights (K, P) that sum to K: linear between the smallest and the largest."""
    if teachers == 1:
        return torch.ones_like(u_P)[None]
    r_K1 = torch.linspace(0, 1, teachers, dtype=u_P.dtype, device=u_P.device)[:, None]
    return 2 * (u_P * (1 - r_K1) + (1 - u_P) * r_K1)
