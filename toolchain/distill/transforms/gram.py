"""Gram matrices: inner products between tokens, features, layers or sequences."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from toolchain.distill.context import Context
from toolchain.distill.shapes import Footprint, Shape, Unfit
from toolchain.distill.transforms.transform import Fixed

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["Gram"]


@dataclass(frozen=True)
class Gram(Fixed):
    """Inner products along one axis, so that everything else may differ in size.

    "token" gives maps (B, 1, N, N) divided by the width (NST, arXiv 1707.01219), one per head
    after `split_heads`; "feature" a matrix (F, F) per sequence divided by its real tokens,
    flattened (FSP, CVPR 2017); "sample" (B, B) between pooled sequences (SP, arXiv 1907.09682,
    with `l2norm` behind it); "layer" a matrix (L, L) per token divided by the width, flattened.
    On stacked layers "token" and "feature" multiply each layer with the next one; FSP is defined
    between two layers.
    """

    key: ClassVar[str] = "gram"
    of: Literal["token", "feature", "sample", "layer"] = "token"
    # Follows from the matching: whether layers are stacked.
    stacked: bool = False

    def resolve(self, student: Shape, teacher: Shape) -> "Gram":  # noqa: ARG002
        """Check that there is such an axis."""
        wanted = "cls" if self.of == "sample" else "tok"
        if student.positions != wanted:
            raise Unfit(
                f"the Gram matrix over {self.of}s is not taken of {student.positions!r} values",
                "pool the tokens first" if self.of == "sample" else "extract hidden, q, k or v",
            )
        if self.of == "layer" and not student.layers:
            raise Unfit("one layer has no relation to itself", "use match: all_layers_stacked")
        if student.split and self.of != "token":
            raise Unfit(f"heads have no Gram matrix over {self.of}s", "leave split_heads out")
        return dataclasses.replace(self, stacked=bool(student.layers))

    @property
    def across(self) -> bool:
        """Whether sequences of a batch are related."""
        return self.of == "sample"

    def shape(self, own: Shape) -> Shape:
        """Return the shape of the products."""
        steps = own.layers - 1 if own.layers else 1
        match self.of:
            case "token":
                return Shape(positions="pair", heads=own.split or steps)
            case "feature":
                assert own.features is not None
                return Shape(positions="cls", features=steps * own.features**2)
            case "sample":
                return Shape(positions="sample")
            case "layer":
                assert own.layers is not None
                return dataclasses.replace(own, features=own.layers**2, heads=None, layers=None)

    def memory(self, own: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of the products and of the scaled or masked factor."""
        vectors = own.elements(batch, tokens)
        return Footprint(4 * (self.shape(own).elements(batch, tokens) + vectors), 4 * vectors)

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(B, N, D), (B, N, L, D), (B, N, R, K) or (B, D) -> products."""
        match self.of:
            case "token":
                left, right = self._factors(values)
                return (left / values.shape[-1]) @ right.transpose(-1, -2)
            case "feature":
                left, right = self._factors(values)
                mask = context.mask_BN.to(values.dtype)
                part_BN = mask / mask.sum(-1, keepdim=True).clamp(min=1)
                left = left * part_BN[:, None, :, None]
                return (left.transpose(-1, -2) @ right).flatten(1)
            case "sample":
                return values @ values.T
            case "layer":
                # Scaling one factor first keeps the products small in half precision.
                return ((values / values.shape[-1]) @ values.transpose(-1, -2)).flatten(2)

    def _factors(self, values: "Tensor") -> "tuple[Tensor, Tensor]":
        """Return the two factors with maps in front, (B, H, N, D)."""
        if values.ndim == 3:
            return values.unsqueeze(1), values.unsqueeze(1)
        maps = values.transpose(1, 2)
        return (maps[:, :-1], maps[:, 1:]) if self.stacked else (maps, maps)
