"""Forward and reverse KL weighed by where student and teacher differ."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.objectives.mixtures import Divergence, kl_of_logs
from toolchain.distill.objectives.settings import require_fraction, require_positive

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AKL"]

# Where both gaps are zero the divergences are too: any weight will do.
_NO_GAP = 1e-30


@dataclass(frozen=True)
class AKL(Divergence):
    """tau^2 (g_head KL(P || Q) + g_tail KL(Q || P)) / (g_head + g_tail), row by row.

    Wu et al. 2025 (arXiv 2404.02657). The head is the smallest set of the teacher's
    most probable outcomes that holds at least `mu` of its mass, the tail is the rest; g is the sum
    of |p - q| over each. No gradient flows through the weights.
    """

    key: ClassVar[str] = "akl"
    held: ClassVar[float] = 5.0
    spare: ClassVar[float] = 5.0
    mu: float = 0.5
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Refuse masses outside [0, 1] and temperatures that are not above 0."""
        require_fraction(self.key, "mu", self.mu)
        require_positive(self.key, "tau", self.tau)

    def of_logs(self, log_p: "Tensor", log_q: "Tensor") -> "Tensor":
        """(..., outcomes) twice -> (...)."""
        head, tail = self._gaps(log_p.exp(), log_q.detach().exp())
        total = (head + tail).clamp_min(_NO_GAP)
        forward, reverse = kl_of_logs(log_p, log_q), kl_of_logs(log_q, log_p)
        return head / total * forward + tail / total * reverse

    def _gaps(self, p: "Tensor", q: "Tensor") -> tuple["Tensor", "Tensor"]:
        """Return the sums of |p - q| over the teacher's head and tail, (...) each."""
        ordered, order = p.sort(dim=-1, descending=True)
        gaps = (p - q).abs().gather(-1, order)
        # An outcome is in the head while those before it hold less than mu.
        in_head = ordered.cumsum(-1) - ordered < self.mu
        head = gaps.where(in_head, gaps.new_zeros(())).sum(-1)
        return head, gaps.sum(-1) - head
