"""A learned policy keeps or drops each teacher for each row (RL-KD)."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from toolchain.distill.aggregation.aggregation import Aggregation, Lesson, Said
from toolchain.distill.extract import Request, hidden, logits
from toolchain.distill.objectives import KL
from toolchain.distill.objectives.settings import require_fraction, require_positive
from toolchain.distill.shapes import Unfit
from toolchain.distill.stages import Stage
from toolchain.distill.transforms import Pool
from toolchain.lazy import lazy
from toolchain.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

    from toolchain.distill.aggregation.policy_module import PolicyModule
else:
    torch = lazy("torch")

__all__ = ["Policy", "reinforce"]


def reinforce(scores: "Tensor", actions: "Tensor", advantages: "Tensor") -> "Tensor":
    """Return -advantage log pi(action) with pi(1) = sigmoid(score), elementwise.

    Its expected gradient is that of -E[reward] (Williams 1992), whatever baseline that does not
    depend on the action was taken from the reward. Weighing by pi itself instead of log pi is
    another, biased estimator.
    """
    log_pi = -torch.nn.functional.binary_cross_entropy_with_logits(
        scores, actions, reduction="none"
    )
    return -advantages * log_pi


@dataclass(frozen=True)
class Policy(Aggregation):
    """pi_k = sigmoid(w_k [sentence vector; CE_k; p_k] + b_k), action a_k in {0, 1} (2012.06048).

    Weights are a_k / sum a. The reward of a row is taken after the student's update, so that it can
    depend on the action: "labels" is -CE_S, "labels_and_teachers" -CE_S - KD(tau) averaged over the
    kept teachers (over all where none was kept). REINFORCE with the row's own loss before the step
    and a running mean of what is left as baselines. Until `warmup`, a part of the steps, all
    teachers are averaged and nothing is learned.

    The sentence vector is the student's last state of the token a classifier reads.
    """

    key: ClassVar[str] = "policy"
    needs_labels: ClassVar[bool] = True
    learns: ClassVar[bool] = True
    stages: ClassVar[tuple[Stage, ...]] = ("pred",)
    reward: Literal["labels", "labels_and_teachers"] = "labels"
    warmup: float = 0.1
    tau: float = 1.0
    student: ModelSpec | None = dataclasses.field(default=None, repr=False)
    teachers: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        require_fraction(self.key, "warmup", self.warmup, one=False)
        require_positive(self.key, "tau", self.tau)

    def resolve(self, student: ModelSpec, teachers: Sequence[ModelSpec]) -> "Policy":
        """Fix what the policy reads. Raises Unfit where teachers' answers differ in length."""
        if logits.shape(student).features is None:
            raise Unfit(
                "it reads the teachers' probabilities, which of a question are as many as its "
                "text has tokens",
                "use mt_bert, or kd with several teachers",
            )
        return dataclasses.replace(self, student=student, teachers=len(teachers))

    def requests(self) -> frozenset[Request]:
        """Return the student's last block."""
        assert self.student is not None
        return frozenset(hidden.requests(self.student.layers))

    def module(self) -> "Module":
        """Return one linear map per teacher, all at zero: pi starts at 1/2."""
        from toolchain.distill.aggregation.policy_module import PolicyModule

        assert self.student is not None
        features = self.student.width + 1 + (logits.shape(self.student).features or 0)
        return PolicyModule(self.teachers, features)

    def weights(self, said: Said, module: "Module | None") -> "Tensor":
        """Return a_k / sum a, (K, P); 1 / K during the warm-up."""
        if self._warms_up(said):
            teachers, rows = len(said.teachers), said.student.shape[0]
            return said.student.new_full((teachers, rows), 1.0 / teachers)
        kept_KP = self.actions(said, self.scores(said, module).detach())
        return kept_KP / kept_KP.sum(0).clamp(min=1)

    def lesson(self, said: Said, after: "Tensor", module: "Module | None") -> Lesson:
        """Return the policy's loss summed over teachers, and the reward less the row's old loss."""
        before_P = said.gold_loss(said.student)
        reward_P = -said.gold_loss(after)
        scores_KP = self.scores(said, module)
        warms_up = self._warms_up(said)
        actions_KP = (
            torch.ones_like(scores_KP) if warms_up else self.actions(said, scores_KP.detach())
        )
        if self.reward == "labels_and_teachers":
            reward_P = reward_P - self._disagreement(said, after, actions_KP)
        gain_P = (reward_P + before_P).detach()
        if warms_up:
            return Lesson(None, gain_P)
        policy = _owned(module)
        loss_KP = reinforce(scores_KP, actions_KP, gain_P - policy.baseline.to(gain_P))
        return Lesson(loss_KP.sum(0), gain_P)

    def scores(self, said: Said, module: "Module | None") -> "Tensor":
        """Return the log odds of keeping each teacher, (K, P), with gradient into the policy."""
        assert self.student is not None
        context = said.context
        state_BND = said.knowledge.get(hidden, self.student.layers).detach()
        sentence_PD = Pool("cls")(state_BND, context, None)
        if context.sample_P is not None:
            sentence_PD = sentence_PD[context.sample_P]
        states = [
            torch.cat([sentence_PD, said.gold_loss(z)[:, None], _answer(z)], dim=-1)
            for z in said.teachers
        ]
        scores: Tensor = _owned(module)(torch.stack(states))
        return scores

    def actions(self, said: Said, scores_KP: "Tensor") -> "Tensor":
        """Return 1 where a teacher is kept, (K, P): the same for one step however often asked."""
        moment = said.context.moment
        drawn = torch.rand(scores_KP.shape, generator=moment.draw(self.key, moment.step))
        return (drawn.to(scores_KP.device) < scores_KP.sigmoid()).to(scores_KP.dtype)

    def _warms_up(self, said: Said) -> bool:
        return said.context.moment.progress < self.warmup

    def _disagreement(self, said: Said, after: "Tensor", kept_KP: "Tensor") -> "Tensor":
        assert self.student is not None
        shape = logits.shape(self.student)
        kd = KL(self.tau).resolve(shape, shape)
        each_KP = torch.stack([kd(after, z, said.context) for z in said.teachers])
        counted = torch.where(kept_KP.sum(0) > 0, kept_KP, torch.ones_like(kept_KP))
        return (each_KP * counted).sum(0) / counted.sum(0)


def _answer(z_PC: "Tensor") -> "Tensor":
    """Return a teacher's probabilities, or its score where there is only one."""
    return z_PC if z_PC.shape[-1] == 1 else z_PC.softmax(-1)


def _owned(module: "Module | None") -> "PolicyModule":
    from toolchain.distill.aggregation.policy_module import PolicyModule

    assert isinstance(module, PolicyModule)
    return module
