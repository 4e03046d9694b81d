"""What a student would say next, mixed with what a teacher would, while text is written.

Shape letters: R texts that are written, W width of the longest prompt, N tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import Cache, LogitsProcessor

from toolchain.distill.objectives.mixtures import mixture

__all__ = ["Mixed", "Speaker"]


@runtime_checkable
class Speaker(Protocol):
    """A teacher that can be asked for the next token alone."""

    def next_token(
        self, ids_RN: Tensor, mask_RN: Tensor, past: Cache | None
    ) -> tuple[Tensor, Cache]:
        """Return logits (R, V) behind texts padded on the left, and what it keeps of them.

        `ids_RN` are the tokens behind those of `past`, `mask_RN` is 1 at real tokens of both.
        """


class Mixed(LogitsProcessor):
    """Puts log(share p + (1 - share) q) in the place of the student's scores, p the teacher's.

    One object serves one call of `generate`: the teacher reads each token once.
    """

    def __init__(self, teacher: Speaker, share: float, prompts: Sequence[Tensor]) -> None:
        self._teacher, self._share = teacher, share
        width = max(len(prompt) for prompt in prompts)
        lengths_R = torch.tensor([len(prompt) for prompt in prompts])
        mask_RW = torch.arange(width) >= width - lengths_R[:, None]
        self._mask_RN = mask_RW.long().to(prompts[0].device)
        self._past: Cache | None = None
        self._read = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, N) tokens so far, (R, V) scores of the student -> (R, V) log-probabilities."""
        ids_RN, new = input_ids[:, self._read :], input_ids.shape[1] - self._mask_RN.shape[1]
        # What follows an end token is padding, which nobody reads.
        self._mask_RN = torch.nn.functional.pad(self._mask_RN, (0, new), value=1)
        self._read = input_ids.shape[1]
        logits_RV, self._past = self._teacher.next_token(ids_RN, self._mask_RN, self._past)
        log_p, log_q = (x.float().log_softmax(-1) for x in (logits_RV, scores))
        return mixture(log_p, log_q, self._share)
