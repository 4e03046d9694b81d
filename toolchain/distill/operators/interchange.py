"""Interchange: activations of another sentence are put into the run, in both models alike (DIITO).

Shape letters: B batch, N tokens, D width.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from toolchain import layermap
from toolchain.distill.context import Moment
from toolchain.distill.extract import Request
from toolchain.distill.operators.operator import Operator, Passes, Patches, View
from toolchain.distill.shapes import Unfit
from toolchain.distill.stages import Stage
from toolchain.distill.tokens import require_same_tokens
from toolchain.lazy import lazy
from toolchain.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor

    from toolchain.distill.capture import Captures
else:
    torch = lazy("torch")

__all__ = ["Interchange"]


@dataclass(frozen=True)
class Interchange(Operator):
    """Copy a span of positions of aligned blocks from the sentence before it in the batch.

    Causal distillation with interchange interventions (arXiv 2112.02505, section 3). The span is
    the part `span` of the shorter of the two sentences, consecutive, at the same positions in both,
    drawn per row. `align` "full" draws a student block per step and takes its group of teacher
    blocks with it; "middle" takes the block above the middle of each model, "late" the last but
    one, as the mappings in the authors' code do for 3 and 6 against 12 blocks. What is copied are
    activations of the plain pass, with their gradient, so each model runs once more and not twice.
    """

    key: ClassVar[str] = "interchange"
    reruns: ClassVar[str] = "in every step the teacher runs again with activations exchanged"
    stages: ClassVar[tuple[Stage, ...]] = ("general", "inter", "pred")
    span: float = 0.3
    align: Literal["full", "middle", "late"] = "full"

    def check(self, student: ModelSpec, teacher: ModelSpec) -> None:
        """Require a span that exists and blocks that can be aligned."""
        if not 0 <= self.span <= 1:
            raise Unfit(f"the span is {self.span:g} of a sentence", "give a part between 0 and 1")
        require_same_tokens(
            "it exchanges the activations of the same tokens in both models",
            "use a method that exchanges none, such as kd",
            student,
            teacher,
        )
        if student.layers > teacher.layers:
            raise Unfit(
                f"it aligns each block of the student with blocks of the teacher: the student has "
                f"{student.layers}, the teacher {teacher.layers}",
                "give the student no more layers than its teacher",
            )

    def requests(self, spec: ModelSpec) -> frozenset[Request]:
        """Return the block outputs that may be copied."""
        depth = spec.layers
        layers: Iterable[int] = range(1, depth + 1)
        if self.align != "full":
            layers = self._blocks(1, depth, depth)
        return frozenset(Request("hidden", layer) for layer in layers)

    def view(self, plain: View, passes: Passes, moment: Moment) -> View:
        """Run the models again with the span exchanged; the labels stay those of the base."""
        generator = moment.draw(self.key, moment.step)
        depth = passes.student_spec.layers
        chosen = 1 + int(torch.randint(depth, (), generator=generator))
        span_BN = self._spans(plain.batch.mask_BN, generator)
        student = _exchange(plain.student, self._blocks(chosen, depth, depth), span_BN)
        teachers = [
            passes.teacher(
                i,
                plain.batch,
                _exchange(known, self._blocks(chosen, depth, spec.layers), span_BN),
            )
            for i, (known, spec) in enumerate(
                zip(plain.teachers, passes.teacher_specs, strict=True)
            )
        ]
        return View(plain.batch, passes.student(plain.batch, student), tuple(teachers))

    def _blocks(self, chosen: int, student_depth: int, depth: int) -> tuple[int, ...]:
        """Return the blocks of a model of `depth` that stand for student block `chosen`."""
        match self.align:
            case "full":
                ends = {0: 0, **dict(layermap.uniform(student_depth, depth).pairs)}
                return tuple(range(ends[chosen - 1] + 1, ends[chosen] + 1))
            case "middle":
                return (depth // 2 + 1,)
            case "late":
                return (max(1, depth - 1),)

    def _spans(self, mask_BN: "Tensor", generator: "Generator") -> "Tensor":
        """Return where activations are exchanged, (B, N)."""
        lengths_B = mask_BN.sum(-1)
        common_B = torch.minimum(lengths_B, lengths_B.roll(1, 0))
        size_B = (self.span * common_B).long()
        if self.span:
            size_B = size_B.clamp(min=1)
        luck_B = torch.rand(len(common_B), generator=generator).to(mask_BN.device)
        start_B = (luck_B * (common_B - size_B + 1)).long()
        positions_N = torch.arange(mask_BN.shape[1], device=mask_BN.device)
        return (positions_N >= start_B[:, None]) & (positions_N < (start_B + size_B)[:, None])


def _exchange(known: "Captures", blocks: Iterable[int], span_BN: "Tensor") -> Patches:
    return {
        request: _copied(known.tensor(request).roll(1, 0), span_BN)
        for request in (Request("hidden", block) for block in blocks)
    }


def _copied(source_BND: "Tensor", span_BN: "Tensor") -> "Callable[[Tensor], Tensor]":
    def patch(own_BND: "Tensor") -> "Tensor":
        return torch.where(span_BN[..., None], source_BND.to(own_BND.dtype), own_BND)

    return patch
