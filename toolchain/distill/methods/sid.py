"""SID: attention and first-token states, layer after layer from below (Aguilar et al. 2020)."""

from dataclasses import dataclass, replace
from typing import Literal

from toolchain.distill import extract, matching, objectives, reduction, schedules, transforms
from toolchain.distill.clock import Clock
from toolchain.distill.methods.kd import KD
from toolchain.distill.term import Method, Term, method

__all__ = ["SID"]


@method("sid")
@dataclass(frozen=True, kw_only=True)
class SID(Method):
    """L_l = mean over heads and queries of KL(P^T || P^S) + 1 - cos of the first tokens, then KD.

    arXiv 1910.03723. Layers are unlocked one after another in equal parts of the run until
    `unlocked`: "stacked" keeps earlier layers in the sum, "progressive" drops them. With
    `threshold` the next layer's turn comes as soon as the cosine of this one's first tokens, over
    the batch of one step, reaches it; the steps saved go to the predictions, which count only when
    all layers are unlocked, with tau and alpha of ours. Numbers of heads must be equal; widths too,
    unless `project` takes the student's states to the teacher's width.
    """

    how: Literal["stacked", "progressive"] = "stacked"
    unlocked: float = 0.5
    threshold: float | None = None
    tau: float = 1.0
    alpha: float = 0.5
    project: bool = False

    def terms(self) -> tuple[Term, ...]:
        """Return the two internal terms and those of KD."""
        schedule, clock = schedules.Unlock(self.how, ends=self.unlocked), self._clock()
        every, project = matching.Uniform(), (transforms.Project(),) if self.project else ()
        attention = Term(
            "attention",
            extract.attn_scores,
            objectives.KL(),
            reduction.mean_query,
            match=every,
            schedule=schedule,
        )
        cls = Term(
            "cls",
            extract.hidden,
            objectives.Cos(),
            reduction.mean_cls,
            match=every,
            transforms=(transforms.Pool("cls"), *project),
            schedule=schedule,
        )
        after = schedules.Gate(opens=self.unlocked)
        kd = KD(tau=self.tau, alpha=self.alpha).terms()
        terms = (attention, cls, *(replace(term, schedule=after) for term in kd))
        return tuple(replace(term, clock=clock) for term in terms)

    def _clock(self) -> Clock | None:
        if self.threshold is None:
            return None
        return Clock("cls", limit=1 - self.threshold, ends=self.unlocked)
