"""StudentGenerate: now and then the student learns from what it would say itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Moment
from toolchain.distill.operators.operator import Operator, Passes
from toolchain.distill.shapes import Unfit
from toolchain.distill.tokens import require_same_tokens
from toolchain.lazy import lazy
from toolchain.spec import ModelSpec

if TYPE_CHECKING:
    import torch

    from toolchain.data.batching import Batch
else:
    torch = lazy("torch")

__all__ = ["StudentGenerate"]


@dataclass(frozen=True)
class StudentGenerate(Operator):
    """With probability `share` per step the answers of the batch are sampled from the student.

    On-policy distillation (Agarwal et al. 2024, arXiv 2306.13649, algorithm 1; `share` is its
    lambda). No gradient flows through the sampling. Rows without a prompt are sampled from their
    first token on. Which steps, and what is said, follow from the seed and the weights.
    """

    key: ClassVar[str] = "student_generate"
    reruns: ClassVar[str] = "the teacher judges text that the student writes while it learns"
    invents_labels: ClassVar[bool] = True
    share: float = 0.5
    tau: float = 1.0

    def check(self, student: ModelSpec, teacher: ModelSpec) -> None:
        """Require decoders, and settings that can be."""
        if not 0 <= self.share <= 1:
            raise Unfit(f"the share of sampled steps is {self.share:g}", "give one of 0 to 1")
        if self.tau <= 0:
            raise Unfit(f"the sampling temperature is {self.tau:g}", "give one above 0, such as 1")
        for side, spec in (("student", student), ("teacher", teacher)):
            if spec.task != "causal_lm":
                raise Unfit(
                    f"it samples text from the student and has the teacher judge it: the {side} "
                    f"is a model for {spec.task}",
                    "use causal language models, and data with prompts and answers or plain text",
                )
        require_same_tokens(
            "the teacher judges the tokens the student sampled",
            "use uld on the data's answers, or seqkd",
            student,
            teacher,
        )

    def prepare(self, batch: "Batch", passes: Passes, moment: Moment) -> "Batch":
        """Return the batch as it is, or with answers of the student's own."""
        generator = moment.draw(self.key, moment.step)
        luck = float(torch.rand((), generator=generator))
        seed = int(torch.randint(1 << 31, (), generator=generator))
        return passes.generate(batch, tau=self.tau, seed=seed) if luck < self.share else batch
