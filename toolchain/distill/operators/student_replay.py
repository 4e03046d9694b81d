"""StudentReplay: the student learns from what it says, and from what it said before."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Moment
from toolchain.distill.operators.operator import Operator, Passes
from toolchain.distill.operators.student_generate import StudentGenerate
from toolchain.distill.shapes import Unfit
from toolchain.lazy import lazy
from toolchain.spec import ModelSpec

if TYPE_CHECKING:
    import torch

    from toolchain.data.batching import Batch
    from toolchain.distill.operators.replay import Replay
else:
    torch = lazy("torch")

__all__ = ["StudentReplay"]


@dataclass(frozen=True)
class StudentReplay(Operator):
    """With probability phi a step's answers are the student's own, new ones or ones from a buffer.

    Adaptive off-policy generation of DistiLLM (Ko et al. 2024, arXiv 2402.03898, section 3.2). phi
    starts at `share`; each time the loss on dev has risen by `margin` since the start, or since the
    last such time, it grows by `rise`. Of these steps, the part 1 - progress writes new answers
    (all do, until `capacity` rows are kept), which are learned from and kept; the others take rows
    kept before, drawn at random. Ranks keep the same rows.
    """

    key: ClassVar[str] = "student_replay"
    reruns: ClassVar[str] = "the teacher judges text that the student writes while it learns"
    invents_labels: ClassVar[bool] = True
    share: float = 0.0
    rise: float = 0.1
    margin: float = 0.1
    capacity: int = 1000
    tau: float = 1.0

    def check(self, student: ModelSpec, teacher: ModelSpec) -> None:
        """Require decoders, and settings that can be."""
        StudentGenerate(self.share, self.tau).check(student, teacher)
        if not 0 <= self.rise <= 1 or self.margin < 0:
            raise Unfit(
                f"the share rises by {self.rise:g} when the loss does by {self.margin:g}",
                "give a rise of 0 to 1, and a margin of 0 or more",
            )
        if self.capacity < 1:
            raise Unfit(f"a buffer of {self.capacity} rows keeps none", "give one of 1 or more")

    def module(self) -> "Replay":
        """Return the buffer and phi, which are saved with the run."""
        from toolchain.distill.operators.replay import Replay

        return Replay(self.share, self.rise, self.margin, self.capacity)

    def prepare(self, batch: "Batch", passes: Passes, moment: Moment) -> "Batch":
        """Return the batch as it is, with new answers, or one of rows that were kept."""
        from toolchain.distill.operators.replay import Replay

        replay = passes.memory(self.key)
        assert isinstance(replay, Replay)
        generator = moment.draw(self.key, moment.step)
        luck = float(torch.rand((), generator=generator))
        seed = int(torch.randint(1 << 31, (), generator=generator))
        phi = float(replay.phi)
        if luck >= phi:
            return batch
        if luck >= phi * (1 - moment.progress) and replay.full:
            return replay.drawn(batch, generator)
        made = passes.generate(batch, tau=self.tau, seed=seed)
        replay.keep(made)
        return made
