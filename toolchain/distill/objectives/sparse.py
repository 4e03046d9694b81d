"""Distributions known by their largest outcomes and the mass of the rest."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.divergence import KL
from toolchain.distill.objectives.mixtures import kl_of_logs
from toolchain.distill.objectives.objective import Objective, log_softmax
from toolchain.distill.objectives.settings import require_positive
from toolchain.distill.shapes import Shape, Unfit
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["SampledKL", "StoredKL", "TopKKL"]


@dataclass(frozen=True)
class TopKKL(Objective):
    """tau^2 KL over the teacher's k most probable outcomes and one bucket of all others.

    The KL of a coarser distribution: never above the full one, and nothing is renormalised, which
    would be biased (arXiv 2503.16870). All of the teacher that it needs are k
    log-probabilities and ids per row. With k outcomes or fewer it is the full KL.
    """

    key: ClassVar[str] = "topk_kl"
    distribution: ClassVar[bool] = True
    k: int = 64
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Refuse k below 1 and temperatures that are not above 0."""
        require_positive(self.key, "k", self.k)
        require_positive(self.key, "tau", self.tau)

    def resolve(self, student: Shape, teacher: Shape) -> "Objective":
        """Return the full KL where there are no more than k outcomes. Raises Unfit."""
        if student.features is None:
            raise Unfit("keys and tokens have no largest outcomes in common", "use kl")
        fitting = super().resolve(student, teacher)
        return KL(self.tau) if student.features <= self.k else fitting

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(..., outcomes) twice -> (...)."""
        log_q = log_softmax(student, self.tau, context)
        log_p = log_softmax(teacher, self.tau, context)
        ids = log_p.topk(self.k, dim=-1).indices
        return self.tau**2 * kl_of_logs(_coarse(log_p, ids), _coarse(log_q, ids))


def _coarse(logs: "Tensor", ids: "Tensor") -> "Tensor":
    """Return the chosen log-probabilities and that of the rest, (..., k + 1)."""
    # Summed, not 1 - the others: the rest may be smaller than rounding.
    rest = logs.scatter(-1, ids, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([logs.gather(-1, ids), rest], dim=-1)


@dataclass(frozen=True)
class StoredKL(Objective):
    """The KL of `TopKKL` against a teacher of whom a cache keeps the largest outcomes.

    The teacher's tensor holds side by side its `stored` largest log-probabilities, the log-mass of
    all others at each of `temperatures`, and the ids: (P, stored + temperatures + stored). It is
    the KL over k + 1 outcomes, as exact as the stored numbers are. Made by the plan in the place of
    an objective on whole distributions; a recipe cannot name it.
    """

    key: ClassVar[str] = "stored_kl"
    distribution: ClassVar[bool] = True
    k: int = 64
    tau: float = 1.0
    stored: int = 64
    temperatures: tuple[float, ...] = (1.0,)

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(P, outcomes) and (P, stored + temperatures + stored) -> (P,)."""
        sizes = [self.stored, len(self.temperatures), self.stored]
        values, rests, ids = torch.split(teacher, sizes, dim=-1)
        scaled = values / self.tau
        at = self.temperatures.index(self.tau)
        # What was stored beyond k belongs to the rest.
        others = torch.cat([scaled[..., self.k :], rests[..., at : at + 1]], dim=-1)
        rest = others.logsumexp(-1, keepdim=True)
        log_p = torch.cat([scaled[..., : self.k], rest], dim=-1).log_softmax(-1)
        log_q = log_softmax(student, self.tau, context)
        return self.tau**2 * kl_of_logs(log_p, _coarse(log_q, ids[..., : self.k].long()))


@dataclass(frozen=True)
class SampledKL(Objective):
    """An estimate of the KL against a teacher of whom a cache keeps outcomes that were drawn.

    The teacher's tensor holds its entropy at each of `temperatures`, then the `draws` ids drawn at
    each: (P, temperatures + temperatures * draws). The mean of -log q over ids that were drawn
    from p has the expectation -sum p log q, so the value has that of tau^2 KL(p || q), and its
    gradient that of the KL's gradient (arXiv 2503.16870). A single value may be below 0. Made by
    the plan, as `StoredKL` is.
    """

    key: ClassVar[str] = "sampled_kl"
    distribution: ClassVar[bool] = True
    zero_at_equality: ClassVar[bool] = False
    draws: int = 64
    tau: float = 1.0
    temperatures: tuple[float, ...] = (1.0,)

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(P, outcomes) and (P, temperatures + temperatures * draws) -> (P,)."""
        at, count = self.temperatures.index(self.tau), len(self.temperatures)
        first = count + at * self.draws
        ids = teacher[..., first : first + self.draws].long()
        log_q = log_softmax(student, self.tau, context)
        return self.tau**2 * (-log_q.gather(-1, ids).mean(-1) - teacher[..., at])
