"""One extra head per teacher and one for the gold labels, folded into a single one at the end."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Moment
from toolchain.distill.shapes import Unfit
from toolchain.distill.surgery.surgery import Operation, Surgery
from toolchain.lazy import lazy
from toolchain.spec import LANGUAGE, ModelSpec

if TYPE_CHECKING:
    import torch
    from torch.nn import Linear

    from toolchain.distill.surgery.mean_heads import MeanHeads
    from toolchain.distill.teachers import Readable, TrainingModel
else:
    torch = lazy("torch")

__all__ = ["MultiHead", "folded"]


@dataclass(frozen=True)
class MultiHead(Surgery):
    """K + 1 copies of the last linear layer of the student's head (TMKD, arXiv 1910.08381).

    Head 0 is that of the gold labels, head k that of teacher k. While they are trained the student
    answers, on dev too, with the mean of their logits. The mean of linear heads is linear, so at
    the end one head with the mean of weights and biases answers the same.
    """

    key: ClassVar[str] = "multi_head"
    # There is no one last layer to read them.
    hides: ClassVar[frozenset[str]] = frozenset({"states"})

    def check(self, student: ModelSpec, teacher: ModelSpec) -> None:  # noqa: ARG002
        """Raise Unfit for a language model: each head would be a vocabulary wide."""
        if student.task in LANGUAGE:
            raise Unfit(
                "a language model cannot have one head per teacher: each is a vocabulary wide",
                "use kd with several teachers",
            )

    def begin(self, student: "TrainingModel", teachers: "Sequence[Readable]") -> Operation:
        """Put the heads in the place of the student's last layer."""
        return _Heads(student, len(teachers) + 1)


class _Heads(Operation):
    """The heads are part of the student: trained, saved and restored with it."""

    def __init__(self, student: "TrainingModel", count: int) -> None:
        from toolchain.distill.surgery.mean_heads import MeanHeads

        self._model = student.model
        self._path = student.family.head(student.spec.task).last
        last = self._model.get_submodule(self._path)
        assert isinstance(last, torch.nn.Linear), f"{self._path} is not linear"
        self._model.set_submodule(self._path, MeanHeads(last, count))

    def before_step(self, moment: Moment) -> None:
        """Every step trains all heads."""

    def heal(self) -> None:
        """Put one head in their place."""
        from toolchain.distill.surgery.mean_heads import MeanHeads

        heads = self._model.get_submodule(self._path)
        assert isinstance(heads, MeanHeads)
        self._model.set_submodule(self._path, folded(heads))


def folded(heads: "MeanHeads") -> "Linear":
    """Return the one linear layer that computes the mean of the heads."""
    linears = heads.linears()
    one = copy.deepcopy(linears[0])
    with torch.no_grad():
        # In float64: a mean of float32 weights then has float32's rounding, once.
        weights = torch.stack([head.weight.double() for head in linears])
        one.weight.copy_(weights.mean(0))
        biases = [head.bias.double() for head in linears if head.bias is not None]
        if biases:
            one.bias.copy_(torch.stack(biases).mean(0))
    return one
