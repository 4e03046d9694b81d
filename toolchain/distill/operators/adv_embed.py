"""AdvEmbed: embeddings moved a step up the gradient of the loss before the pass that counts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Moment
from toolchain.distill.extract import Request
from toolchain.distill.operators.operator import Operator, Passes, View
from toolchain.distill.stages import Stage
from toolchain.lazy import lazy
from toolchain.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

__all__ = ["AdvEmbed"]

_EMBEDDINGS = Request("emb")


@dataclass(frozen=True)
class AdvEmbed(Operator):
    """Run the student on emb + size * g / |g|, g the gradient of the loss at its embeddings.

    LRC-BERT's gradient perturbation (arXiv 2012.07335): the loss is that of the terms that read
    this view, taken on the plain pass, and the update comes from the second pass. |g| is the norm
    over all real tokens and features of a sentence, so that every sentence moves equally far. The
    teachers are not moved. Costs a second forward and backward pass of the student.
    """

    key: ClassVar[str] = "adv_embed"
    stages: ClassVar[tuple[Stage, ...]] = ("general", "inter", "pred")
    size: float = 1.0

    def requests(self, spec: ModelSpec) -> frozenset[Request]:  # noqa: ARG002
        """Return the embedding output."""
        return frozenset({_EMBEDDINGS})

    def view(self, plain: View, passes: Passes, moment: Moment) -> View:  # noqa: ARG002
        """Run the student once more, on the moved embeddings."""
        emb_BND = plain.student.tensor(_EMBEDDINGS)
        (slope_BND,) = torch.autograd.grad(passes.loss(plain, self.key), emb_BND, retain_graph=True)
        move_BND = self._step(slope_BND, plain.batch.mask_BN)

        def moved(own_BND: "Tensor") -> "Tensor":
            return own_BND + move_BND.to(own_BND.dtype)

        return View(plain.batch, passes.student(plain.batch, {_EMBEDDINGS: moved}), plain.teachers)

    def _step(self, slope_BND: "Tensor", mask_BN: "Tensor") -> "Tensor":
        """Return the step of each sentence; none where the gradient is zero, and on padding."""
        slope_BND = slope_BND * mask_BN[..., None]
        length_B = slope_BND.flatten(1).norm(dim=1).clamp(min=torch.finfo(slope_BND.dtype).tiny)
        step_BND: Tensor = self.size * slope_BND / length_B[:, None, None]
        return step_BND
