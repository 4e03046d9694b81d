"""Stops the gradient of one side, so that a term trains only what it should."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.shapes import Footprint, Shape
from toolchain.distill.transforms.transform import Owner, Side

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["Detach"]


@dataclass(frozen=True)
class Detach:
    """sg[x]: before a learned transform it spares the model, after it the learned transform.

    The teacher itself never gets a gradient; its learned heads and filters do unless this follows.
    """

    key: ClassVar[str] = "detach"
    across: ClassVar[bool] = False
    owner: ClassVar[Owner] = "term"
    group: ClassVar[str] = ""
    side: Side = "teacher"

    def resolve(self, student: Shape, teacher: Shape) -> "Detach":  # noqa: ARG002
        """Accept every shape."""
        return self

    def shape(self, own: Shape) -> Shape:
        """Return the shape unchanged."""
        return own

    def memory(self, own: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of the values, the only ones held of what made them."""
        return Footprint(4 * own.elements(batch, tokens))

    def module(self, own: Shape) -> "Module | None":  # noqa: ARG002
        """Return None."""
        return None

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """Return the same values without their history."""
        return values.detach()
