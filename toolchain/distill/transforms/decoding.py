"""States read by a model's own head, or by the other model's."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from toolchain.distill.context import Context
from toolchain.distill.shapes import Footprint, Shape, Unfit
from toolchain.distill.transforms.transform import Owner, Side

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["Decode"]


@dataclass(frozen=True)
class Decode:
    """Logits that the head of `head` gives for the states of `side` (DSKD, arXiv 2406.17328).

    The head learns only where the student reads its own states with it.
    """

    key: ClassVar[str] = "decode"
    across: ClassVar[bool] = False
    owner: ClassVar[Owner] = "term"
    group: ClassVar[str] = ""
    head: Literal["student", "teacher"] = "student"
    side: Side = "teacher"
    outcomes: int = 0

    def resolve(self, student: Shape, teacher: Shape) -> "Decode":
        """Require states as wide as that head reads them."""
        owner = student if self.head == "student" else teacher
        sides = {"student": student, "teacher": teacher}
        if self.side == "both":
            raise Unfit("it decodes one side", "give side: student or side: teacher")
        if owner.head is None:
            raise Unfit("only states can be decoded", "use it with knowledge: states")
        width, outcomes = owner.head
        if sides[self.side].features != width:
            raise Unfit(
                f"the {self.head}'s head reads {width} features, the {self.side}'s states have "
                f"{sides[self.side].features}",
                f"project them first: transform: [{{project: {{side: {self.side}}}}}]",
            )
        return dataclasses.replace(self, outcomes=outcomes)

    def shape(self, own: Shape) -> Shape:
        """Return the shape of logits."""
        return dataclasses.replace(own, features=self.outcomes)

    def memory(self, own: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of the logits."""
        return Footprint(4 * self.shape(own).elements(batch, tokens))

    def module(self, own: Shape) -> "Module | None":  # noqa: ARG002
        """Return None."""
        return None

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(P, D) -> (P, V)."""
        assert context.decoders is not None, "the term reads no states"
        decoder = context.decoders[0 if self.head == "student" else 1]
        return decoder(values, learns=self.head == self.side == "student")
