"""Logits standardised or turned into probabilities before they are compared."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.objective import at_least_fp32, log_softmax
from toolchain.distill.objectives.settings import require_positive
from toolchain.distill.shapes import Shape, Unfit
from toolchain.distill.transforms.transform import Fixed

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["Softmax", "ZScore"]

# Under it the square root of a variance has no useful gradient.
_CONSTANT = 1e-24


@dataclass(frozen=True)
class ZScore(Fixed):
    """Each row minus its mean, divided by its population standard deviation plus `eps`.

    Sun et al. 2024 (arXiv 2403.01427; their code divides by the sample standard deviation,
    which changes tau by sqrt(C / (C - 1))). Rows that differ in scale and offset become equal.
    """

    key: ClassVar[str] = "zscore"
    eps: float = 1e-7

    def __post_init__(self) -> None:
        """Refuse an eps that is not above 0."""
        require_positive(self.key, "eps", self.eps)

    def resolve(self, student: Shape, teacher: Shape) -> "ZScore":
        """Accept two features or more on both sides. Raises Unfit."""
        if student.features is None or teacher.features is None:
            raise Unfit(
                "figures of as many keys or tokens as a row has cannot be standardised",
                "leave zscore out, or use kd",
            )
        if 1 in (student.features, teacher.features):
            raise Unfit(
                "the z-score of a single number is always 0", "leave zscore out for a regression"
            )
        return self

    def note(self, student: Shape, teacher: Shape) -> str:
        """Return what a user should know of two outcomes."""
        return (
            "z-scores of two outcomes are always -1 and 1: nothing but which one is larger is left"
            if 2 in (student.features, teacher.features)
            else ""
        )

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(..., C) -> (..., C) of mean 0 and standard deviation 1."""
        x = at_least_fp32(values)
        centred = x - x.mean(-1, keepdim=True)
        deviation = centred.square().mean(-1, keepdim=True).clamp_min(_CONSTANT).sqrt()
        return centred / (deviation + self.eps)


@dataclass(frozen=True)
class Softmax(Fixed):
    """Probabilities softmax(z / tau), for objectives that are not divergences."""

    key: ClassVar[str] = "softmax"
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a temperature that is not above 0."""
        require_positive(self.key, "tau", self.tau)

    def resolve(self, student: Shape, teacher: Shape) -> "Softmax":
        """Accept two outcomes or more, or maps over keys. Raises Unfit."""
        if 1 in (student.features, teacher.features):
            raise Unfit(
                "the softmax of a single number is always 1", "leave softmax out for a regression"
            )
        return self

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(..., C) -> (..., C) that sums to 1."""
        return log_softmax(values, self.tau, context).exp()
