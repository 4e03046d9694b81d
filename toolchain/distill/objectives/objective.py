"""Objective: (student, teacher, context) to distances; what all of them share.

Everything is computed in float32 at least, whatever the forward pass used. Distributions are
compared over the last axis; for maps over pairs of tokens the outcomes are keys, and padded keys
are removed on both sides before the softmax. An objective that returns one value per element
leaves the last axis to the reduction.

Shape letters: B batch, N tokens, H maps, C outcomes, F features, P rows of logits.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.reduction import REDUCTIONS, Reduction
from toolchain.distill.shapes import Footprint, Positions, Shape, Unfit
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["Objective", "at_least_fp32", "log_softmax", "require_same_size"]

# Finite, so that a row of padded queries (all keys masked) gives no NaN.
_REMOVED = -1e30


class Objective:
    """A distance or divergence between two tensors of equal shape. Base of all.

    `per_element` keeps the last axis for the reduction. `rowwise` says that each row's value
    depends on that row alone, so that rows may be computed in chunks and batches split.
    `across` ones compare the rows of a batch with each other.
    `distribution` objectives apply a softmax and mean nothing for a single number. `needs_labels`
    ones read the gold labels of the rows, `needs_samples` ones read tokens that were drawn from the
    models, in a view that holds them. `guide` names the teacher's knowledge it selects by.
    `any_tokens` ones compare logits of tokens without asking which tokens those are.
    `zero_at_equality` is what most distances have. `held` counts the tensors of the student's size
    that are held until the backward pass, `spare` those that exist beside them meanwhile.
    """

    key: ClassVar[str] = ""
    per_element: ClassVar[bool] = False
    rowwise: ClassVar[bool] = True
    across: ClassVar[bool] = False
    distribution: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    needs_samples: ClassVar[bool] = False
    guide: ClassVar[str] = ""
    any_tokens: ClassVar[bool] = False
    zero_at_equality: ClassVar[bool] = True
    held: ClassVar[float] = 2.0
    spare: ClassVar[float] = 3.0

    def resolve(self, student: Shape, teacher: Shape) -> "Objective":
        """Return it fixed for these shapes. Raises Unfit when they cannot be compared."""
        require_same_size(student, teacher)
        if self.distribution and student.features == 1:
            raise Unfit(
                "a regression has one number and no distribution over outcomes",
                "use kd, which compares the numbers, or an objective such as mse",
            )
        return self

    def default_reduction(self, shape: Shape) -> Reduction:
        """Return the mean that fits its values for tensors of this shape."""
        if not self.rowwise and shape.positions in ("tok", "pair"):
            return REDUCTIONS["mean_batch"]
        if shape.positions == "pair":
            return REDUCTIONS["mean_pair" if self.per_element else "mean_query"]
        features = "mean_feat_" if self.per_element and shape.positions != "sample" else ""
        return REDUCTIONS[f"{features}mean_{shape.positions}"]

    def yields(self, shape: Shape) -> Positions:
        """Return the positions its values have for tensors of this shape."""
        return shape.positions

    def chooses(self, tokens: int) -> bool:  # noqa: ARG002
        """Return whether its guide is read in batches of so many tokens."""
        return bool(self.guide)

    def note(self, student: Shape, teacher: Shape) -> str:  # noqa: ARG002
        """Return what a user should know of it at these shapes before it runs; mostly nothing."""
        return ""

    def memory(
        self,
        student: Shape,
        teacher: Shape,  # noqa: ARG002
        batch: int,
        tokens: int,
    ) -> Footprint:
        """Return the bytes of one pair of tensors of these shapes, in float32."""
        size = 4 * student.elements(batch, tokens)
        return Footprint(round(self.held * size), round(self.spare * size))

    def module(self) -> "Module | None":
        """Return what it learns or remembers over the run, or None.

        A module with a method `observe(value)` is told the term's global value after each step.
        """
        return None

    @abstractmethod
    def __call__(
        self, student: "Tensor", teacher: "Tensor", context: Context, module: "Module | None" = None
    ) -> "Tensor":
        """Return distances."""


def require_same_size(student: Shape, teacher: Shape) -> None:
    """Raise Unfit unless heads (of maps) and features agree."""
    if student.positions == "pair" and student.heads != teacher.heads:
        raise Unfit(
            f"it compares attention head by head: the student has {student.heads} heads, "
            f"the teacher {teacher.heads}",
            f"give the student {teacher.heads} heads, or use minilm_v2, whose heads are free",
        )
    if student.features != teacher.features:
        if student.positions == "logits":
            raise Unfit(
                f"it compares outcome by outcome: the student has {student.features}, "
                f"the teacher {teacher.features}",
                "add the transform vocab_map for a student with a part of the teacher's tokens "
                "(glmd has it), or use uld, which needs no common vocabulary",
            )
        raise Unfit(
            f"it compares feature by feature: the student has {student.features}, "
            f"the teacher {teacher.features}",
            "add a projection (the option project: true of methods that have it, transform: "
            "[project] in a term), or use a method without widths such as minilm_v2",
        )


def at_least_fp32(values: "Tensor") -> "Tensor":
    """Return the tensor in float32, or float64 where it is."""
    return values if values.dtype == torch.float64 else values.float()


def log_softmax(scores: "Tensor", tau: float, context: Context) -> "Tensor":
    """Return log softmax(scores / tau) over the outcomes that exist."""
    scaled = at_least_fp32(scores) / tau
    if context.outcomes is not None:
        scaled = scaled.masked_fill(~context.outcomes, _REMOVED)
    return scaled.log_softmax(-1)
