"""One vector per sequence, vectors of length one."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from toolchain.distill.context import Context
from toolchain.distill.shapes import Footprint, Shape, Unfit
from toolchain.distill.transforms.transform import Fixed
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["L2Norm", "Pool"]


@dataclass(frozen=True)
class Pool(Fixed):
    """One vector per sequence: the token a classifier reads, or the mean over valid tokens.

    "cls" is the first token of an encoder and the last real one of a decoder.
    """

    key: ClassVar[str] = "pool"
    how: Literal["cls", "mean"] = "cls"

    def resolve(self, student: Shape, teacher: Shape) -> "Pool":  # noqa: ARG002
        """Check that there are tokens to pool."""
        if student.positions != "tok":
            raise Unfit("only token states can be pooled", "leave the pooling out")
        return self

    def shape(self, own: Shape) -> Shape:
        """Return the shape without its token axis."""
        return dataclasses.replace(own, positions="cls")

    def memory(self, own: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of the vectors; a mean forms the masked tokens meanwhile."""
        masked = own.elements(batch, tokens) if self.how == "mean" else 0
        return Footprint(4 * self.shape(own).elements(batch, tokens), 4 * masked)

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(B, N, D) -> (B, D)."""
        if self.how == "cls":
            if not context.causal:
                return values[:, 0]
            rows = torch.arange(values.shape[0], device=values.device)
            return values[rows, context.last_B]
        mask = context.mask_BN.to(values.dtype).unsqueeze(-1)
        return (values * mask).sum(1) / mask.sum(1)


@dataclass(frozen=True)
class L2Norm(Fixed):
    """Each vector divided by its length (PKD, arXiv 1908.09355, eq. 7)."""

    key: ClassVar[str] = "l2norm"

    def resolve(self, student: Shape, teacher: Shape) -> "L2Norm":  # noqa: ARG002
        """Accept vectors; a map's row has padded keys in it, whose length would count."""
        if student.positions == "pair":
            raise Unfit("rows of maps over tokens have padding in them", "leave l2norm out")
        return self

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(..., D) -> (..., D) of length 1."""
        return torch.nn.functional.normalize(values, dim=-1)
