"""Distances or similarities of all pairs: of tokens, of layers or of sequences."""

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

__all__ = ["PairDist"]

# Finite, so that no softmax over others gives NaN; equal on both sides, so it has no distance.
_REMOVED = -1e30


@dataclass(frozen=True)
class PairDist(Fixed):
    """Distances "l2" or similarities "cos" of all pairs, a vector with itself left out.

    Over "token" it gives maps (B, 1, N, N), one per head after `split_heads`; over "layer" rows
    (B, N, L, L) of stacked layers at one token; over "sample" (B, B) of pooled sequences. The
    diagonal of similarities is removed from every softmax behind it (CKD, arXiv 2109.08359); that
    of distances is 0. Distances are exact differences, so equal vectors have distance 0 and no
    gradient (RKD, arXiv 1904.05068).
    """

    key: ClassVar[str] = "pairdist"
    how: Literal["l2", "cos"] = "cos"
    of: Literal["token", "layer", "sample"] = "token"

    def resolve(self, student: Shape, teacher: Shape) -> "PairDist":  # noqa: ARG002
        """Check that there are such pairs."""
        wanted = "cls" if self.of == "sample" else "tok"
        if student.positions != wanted or (student.split and self.of != "token"):
            raise Unfit(
                f"pairs of {self.of}s are not found in {student.positions!r} values",
                "pool the tokens first" if self.of == "sample" else "extract hidden, q, k or v",
            )
        if self.of == "layer" and not student.layers:
            raise Unfit("one layer has no relation to itself", "use match: all_layers_stacked")
        if self.of == "token" and student.layers:
            raise Unfit("tokens are compared layer by layer", "use another matching")
        return self

    @property
    def across(self) -> bool:
        """Whether sequences of a batch are related."""
        return self.of == "sample"

    def shape(self, own: Shape) -> Shape:
        """Return the shape of the pairs."""
        if self.of == "sample":
            return Shape(positions="sample")
        if self.of == "token":
            return Shape(positions="pair", heads=own.split or 1)
        return dataclasses.replace(own, features=own.layers, heads=None)

    def memory(self, own: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of the pairs and of the vectors of length one."""
        pairs, vectors = self.shape(own).elements(batch, tokens), own.elements(batch, tokens)
        return Footprint(4 * (pairs + vectors), 4 * (pairs + vectors))

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(B, N, D), (B, N, R, K), (B, N, L, D) or (B, D) -> pairs."""
        if self.of == "token":
            values = values.unsqueeze(1) if values.ndim == 3 else values.transpose(1, 2)
        if self.how == "l2":
            # The other mode subtracts squared lengths, which loses all digits of near vectors.
            return torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist")
        unit = torch.nn.functional.normalize(values, dim=-1)
        products = unit @ unit.transpose(-1, -2)
        itself = torch.eye(products.shape[-1], dtype=torch.bool, device=products.device)
        return products.masked_fill(itself, _REMOVED)
