"""How features flow from layer to layer: FSP's matrices compared without being built."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.objective import Objective, at_least_fp32, require_same_size
from toolchain.distill.reduction import REDUCTIONS, Reduction
from toolchain.distill.shapes import Footprint, Positions, Shape, Unfit

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["FlowMSE"]


@dataclass(frozen=True)
class FlowMSE(Objective):
    """Mean squared difference of FSP's matrices G = H_l' H_(l+1) / tokens; CVPR 2017.

    The same as `gram: feature -> mse` on stacked layers without the matrices of width times width:
    with A = H_l / tokens and C = H_(l+1), |A'C - B'D|^2 = <AA', CC'> - 2 <AB', CD'> + <BB', DD'>,
    sums over products of pairs of tokens. Relative to |G|^2 it has the digits that float32 has.
    """

    key: ClassVar[str] = "flow_mse"
    rowwise: ClassVar[bool] = False

    def resolve(self, student: Shape, teacher: Shape) -> "FlowMSE":
        """Require stacked layers of one width."""
        if student.positions != "tok" or not student.layers or student.layers < 2 or student.split:
            raise Unfit(
                "flow_mse compares steps from layer to layer",
                "extract hidden states and use match: all_layers_stacked",
            )
        require_same_size(student, teacher)
        return self

    def default_reduction(self, shape: Shape) -> Reduction:
        """Return the mean over sequences."""
        return REDUCTIONS[f"mean_{self.yields(shape)}"]

    def yields(self, shape: Shape) -> Positions:  # noqa: ARG002
        """Return that it gives one value per sequence."""
        return "cls"

    def memory(self, student: Shape, teacher: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of both factors and of six maps over pairs of tokens."""
        steps = (student.layers or 2) - 1
        scaled = steps * 4 * batch * tokens * ((student.features or 1) + (teacher.features or 1))
        maps = steps * 4 * batch * tokens**2
        return Footprint(2 * scaled + 6 * maps, scaled + 2 * maps)

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(B, N, L, D) twice -> (B,)."""
        s, t = (_steps(at_least_fp32(side), context) for side in (student, teacher))
        sums_BL = _inner(s, s) - 2 * _inner(s, t) + _inner(t, t)
        mean: Tensor = sums_BL.mean(-1) / student.shape[-1] ** 2
        return mean


def _steps(values: "Tensor", context: Context) -> "tuple[Tensor, Tensor]":
    """Return every layer but the last, divided by the real tokens, and every one but the first.

    Both (B, L - 1, N, D); padding is zero in the former, which keeps it out of all products.
    """
    mask_BN = context.mask_BN.to(values.dtype)
    part_BN = mask_BN / mask_BN.sum(-1, keepdim=True).clamp(min=1)
    maps_BLND = values.transpose(1, 2)
    # Contiguous, or every product would copy it.
    first = (maps_BLND[:, :-1] * part_BN[:, None, :, None]).contiguous()
    return first, maps_BLND[:, 1:].contiguous()


def _inner(x: "tuple[Tensor, Tensor]", y: "tuple[Tensor, Tensor]") -> "Tensor":
    """Return the sum over all elements of the product of two steps' matrices, (B, L - 1)."""
    first, second = (a @ b.transpose(-1, -2) for a, b in zip(x, y, strict=True))
    product: Tensor = (first * second).sum((-2, -1))
    return product
