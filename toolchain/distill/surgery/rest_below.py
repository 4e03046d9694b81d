"""Rest below: blocks that have had their turn keep still while those above them learn.

Progressive knowledge transfer of MobileBERT (Sun et al., ACL 2020; arXiv 2004.02984, section 3.5).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Moment
from toolchain.distill.schedules import Unlock
from toolchain.distill.stages import Stage
from toolchain.distill.surgery.surgery import Operation, Surgery

if TYPE_CHECKING:
    from torch.nn import Parameter

    from toolchain.distill.teachers import Readable, TrainingModel

__all__ = ["RestBelow", "Resting"]


@dataclass(frozen=True)
class RestBelow(Surgery):
    """While `schedule` is at block l, the blocks below it have no gradient and no weight decay.

    The embeddings learn with the first block and rest with it. When the schedule has ended, all
    learn. `stages` are those the schedule belongs to.
    """

    key: ClassVar[str] = "rest_below"
    schedule: Unlock
    stages: tuple[Stage, ...] = ("general",)

    def begin(
        self,
        student: "TrainingModel",
        teachers: "Sequence[Readable]",  # noqa: ARG002
    ) -> "Resting":
        """Find the blocks of the student."""
        return Resting(self, student)


class Resting(Operation):
    """The rest under way. A parameter without a gradient is left alone by the optimiser."""

    def __init__(self, surgery: RestBelow, student: "TrainingModel") -> None:
        self._schedule = surgery.schedule
        # All blocks' path, ending in a dot.
        blocks = student.family.block_prefix(1).removesuffix("0.")
        self._entrance: list[Parameter] = []
        self._blocks: list[list[Parameter]] = [[] for _ in range(student.spec.layers)]
        for name, parameter in student.model.named_parameters():
            if name.startswith(blocks):
                layer = name.removeprefix(blocks).partition(".")[0]
                self._blocks[int(layer)].append(parameter)
            elif not self._blocks[0]:
                # Modules are listed in the order of the forward pass: what is behind never rests.
                self._entrance.append(parameter)

    def before_step(self, moment: Moment) -> None:
        """Let everything below the block of the step rest."""
        turn = self._schedule.turn(moment.progress, len(self._blocks))
        if turn >= len(self._blocks):
            turn = 0
        for layer, parameters in enumerate(self._blocks):
            _set(parameters, learns=layer >= turn)
        _set(self._entrance, learns=turn == 0)

    def heal(self) -> None:
        """Let everything learn again."""
        for parameters in (self._entrance, *self._blocks):
            _set(parameters, learns=True)


def _set(parameters: "Sequence[Parameter]", *, learns: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(learns)
