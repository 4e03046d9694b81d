"""Trainable linear maps between widths."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.shapes import Footprint, Shape, Unfit
from toolchain.distill.transforms.transform import Owner, Side
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["Project"]


@dataclass(frozen=True)
class Project:
    """Trainable linear map to the other side's width, or to `to` features.

    TinyBERT (arXiv 1909.10351, eq. 8) shares one W over the embedding and all blocks; `group`
    names it, so that terms with the same group share it. With `owner` "layer" every layer has its
    own, shared by the terms of a group only when the group is named. On `side` "both" each side has
    its own map to `to` features (RAIL-KD, arXiv 2109.10164).
    """

    key: ClassVar[str] = "project"
    across: ClassVar[bool] = False
    side: Side = "student"
    to: int = 0
    owner: Owner = "term"
    group: str = "width"
    bias: bool = False

    def resolve(self, student: Shape, teacher: Shape) -> "Project":
        """Fix the width it maps to."""
        if not student.features or not teacher.features:
            raise Unfit("there are no features to project", "project hidden states or embeddings")
        if self.side == "both" and not self.to:
            raise Unfit("a projection of both sides needs a width", "give it: to: 128")
        shared = self.side != "both" and self.owner == "term"
        group = self.group if shared or self.group != "width" else ""
        target = student.features if self.side == "teacher" else teacher.features
        return dataclasses.replace(self, to=self.to or target, group=group)

    def shape(self, own: Shape) -> Shape:
        """Return the shape with the width it maps to."""
        return dataclasses.replace(own, features=self.to)

    def memory(self, own: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of what it returns and of the gradient of its weights."""
        weights = (own.features or 1) * self.to
        return Footprint(4 * (self.shape(own).elements(batch, tokens) + weights))

    def module(self, own: Shape) -> "Module | None":
        """Return the linear map, the identity when widths are equal.

        Starting from the identity makes a copied student start at the distance it really has.
        """
        assert own.features is not None
        linear = torch.nn.Linear(own.features, self.to, bias=self.bias)
        if own.features == self.to:
            torch.nn.init.eye_(linear.weight)
            if self.bias:
                torch.nn.init.zeros_(linear.bias)
        return linear

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(..., D) -> (..., to)."""
        assert module is not None
        projected: Tensor = module(values)
        return projected
