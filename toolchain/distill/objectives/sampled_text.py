"""The gradient of the reverse KL of whole texts, from texts sampled out of both models (MiniLLM).

P is the teacher's distribution, Q the student's, each of the next token y_t behind what stands
before it. Tokens were drawn from M = alpha P + (1 - alpha) Q at temperature 1, so what is said of
them is weighted by q(y_t) / m(y_t). Rows of logits come text by text, in the order of tokens;
`labels_P` are the tokens that were drawn.

Shape letters: P rows of logits, B texts, N tokens.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.mixtures import kl_of_logs, mixture
from toolchain.distill.objectives.objective import Objective, at_least_fp32, log_softmax
from toolchain.distill.objectives.settings import require_fraction, require_positive
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["LongReturn", "NextRKL"]


@dataclass(frozen=True)
class NextRKL(Objective):
    """w_t KL(Q || P) of the next token, no gradient through w_t = q(y_t) / m(y_t).

    MiniLLM's single-step part (Gu et al. 2024, arXiv 2306.08543, section 2.2): the expectation over
    the next token is a sum over the vocabulary, so its gradient has no variance of its own. `alpha`
    is the share of the teacher in what was sampled; at 0 it is the reverse KL.
    """

    key: ClassVar[str] = "next_rkl"
    distribution: ClassVar[bool] = True
    needs_samples: ClassVar[bool] = True
    alpha: float = 0.2

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1)."""
        require_fraction(self.key, "alpha", self.alpha, one=False)

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(P, outcomes) twice -> (P,)."""
        log_q = log_softmax(student, 1.0, context)
        log_p = log_softmax(teacher, 1.0, context)
        values = kl_of_logs(log_q, log_p)
        if not self.alpha:
            return values
        own_P, other_P = (_of_tokens(log, context) for log in (log_q.detach(), log_p))
        return (own_P - mixture(other_P, own_P, self.alpha)).exp() * values


@dataclass(frozen=True)
class LongReturn(Objective):
    """-min(w_t R_t, clip(w_t, 1 - eps, 1 + eps) R_t), R_t what follows the token y_t earns.

    MiniLLM's long-term part (Gu et al. 2024, arXiv 2306.08543, section 2.2 and algorithm 1), a
    policy gradient: w_t = q(y_t) / m(y_t) has a gradient through q alone, R_t has none. R_t is
    the mean of log p - log q over the tokens behind y_t in its text, their sum without
    `length_norm`, which otherwise rewards short texts; 0 at a text's last token. `clip` is eps,
    None clips nothing. A single value may be below 0; its mean over texts from the student is not.
    """

    key: ClassVar[str] = "long_return"
    distribution: ClassVar[bool] = True
    # What a row is worth lies in the rows behind it.
    rowwise: ClassVar[bool] = False
    needs_samples: ClassVar[bool] = True
    held: ClassVar[float] = 0.0
    alpha: float = 0.2
    clip: float | None = 0.2
    length_norm: bool = True

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1) and a clip that is not above 0."""
        require_fraction(self.key, "alpha", self.alpha, one=False)
        if self.clip is not None:
            require_positive(self.key, "clip", self.clip)

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(P, outcomes) twice -> (P,)."""
        log_q_P, log_p_P = (_log_prob(scores, context) for scores in (student, teacher))
        own_P = log_q_P.detach()
        return_P = self._returns(log_p_P - own_P, context)
        weight_P = (log_q_P - mixture(log_p_P, own_P, self.alpha)).exp()
        earned_P = weight_P * return_P
        if self.clip is not None:
            clipped_P = weight_P.clamp(1 - self.clip, 1 + self.clip)
            earned_P = torch.minimum(earned_P, clipped_P * return_P)
        return -earned_P

    def _returns(self, reward_P: "Tensor", context: Context) -> "Tensor":
        """Return the sum or mean of the rewards behind each row in its text, (P,)."""
        sample_P = context.sample_P
        if sample_P is None:
            return torch.zeros_like(reward_P)
        count_B = torch.bincount(sample_P, minlength=context.mask_BN.shape[0])
        first_B = count_B.cumsum(0) - count_B
        place_P = torch.arange(len(sample_P), device=sample_P.device) - first_B[sample_P]
        # Text by text: a sum that ran on over texts would round one by the others.
        reward_BN = reward_P.new_zeros(len(count_B), int(count_B.max()) if len(sample_P) else 0)
        reward_BN[sample_P, place_P] = reward_P
        behind_BN = reward_BN.flip(-1).cumsum(-1).flip(-1) - reward_BN
        behind_P = behind_BN[sample_P, place_P]
        if self.length_norm:
            behind_P = behind_P / (count_B[sample_P] - place_P - 1).clamp(min=1)
        return behind_P


def _of_tokens(logs: "Tensor", context: Context) -> "Tensor":
    """Return what stands at the tokens that were drawn, (P,)."""
    assert context.labels_P is not None, "these rows say nothing of what was drawn"
    return logs.gather(-1, context.labels_P.unsqueeze(-1)).squeeze(-1)


def _log_prob(scores: "Tensor", context: Context) -> "Tensor":
    """Return the log-probability of the tokens that were drawn, (P, outcomes) -> (P,)."""
    wide = at_least_fp32(scores)
    # No second tensor over the vocabulary is held for the backward pass.
    return _of_tokens(wide, context) - wide.logsumexp(-1)
