"""Transform: one step from captured knowledge to what an objective compares.

A transform declares which side it acts on, what it does to a shape, and computes on tensors.
`resolve` fixes what depends on both models (a projection's width, a number of relation heads).
Learned ones build a module that the distiller owns: it is trained and saved with the run and
never exported.
"""

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from toolchain.distill.context import Context
from toolchain.distill.shapes import Footprint, Shape

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["Fixed", "Owner", "Side", "Transform"]

Side = Literal["both", "student", "teacher"]
Owner = Literal["term", "layer"]


class Transform(Protocol):
    """One step from captured knowledge to what the objective compares."""

    key: ClassVar[str]

    @property
    def side(self) -> Side:
        """The side it acts on."""

    @property
    def owner(self) -> Owner:
        """Whether a learned module is one per term, or one per side and layer."""

    @property
    def group(self) -> str:
        """Terms with the same non-empty group share one module."""

    @property
    def across(self) -> bool:
        """Whether it relates the rows of a batch to each other."""

    def resolve(self, student: Shape, teacher: Shape) -> "Transform":
        """Return it with everything fixed for these two shapes. Raises Unfit."""

    def shape(self, own: Shape) -> Shape:
        """Return the shape it makes of one side's."""

    def memory(self, own: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of one side's tensor of one layer, what it returns included."""

    def module(self, own: Shape) -> "Module | None":
        """Return a new learned module for a side of this shape, or None."""

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":
        """Transform one side's tensor of one layer."""


class Fixed:
    """Base of transforms that learn nothing and keep their shape.

    `by_token` says that it finds the tokens of one side among those of the other.
    """

    by_token: ClassVar[bool] = False
    side: ClassVar[Side] = "both"
    owner: ClassVar[Owner] = "term"
    group: ClassVar[str] = ""

    @property
    def across(self) -> bool:
        """Whether it relates the rows of a batch to each other."""
        return False

    def shape(self, own: Shape) -> Shape:
        """Return the shape unchanged."""
        return own

    def note(self, student: Shape, teacher: Shape) -> str:  # noqa: ARG002
        """Return what a user should know of it at these shapes before it runs; mostly nothing."""
        return ""

    def memory(self, own: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of what it returns."""
        return Footprint(4 * self.shape(own).elements(batch, tokens))

    def module(self, own: Shape) -> "Module | None":  # noqa: ARG002
        """Return None."""
        return None
