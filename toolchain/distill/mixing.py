"""What a student would say next, mixed with what a teacher would, while text is written.

Shape letters: R texts that are written, W width of the longest prompt, N tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import Cache, LogitsProcessor, PreTrainedModel

from toolchain.distill.objectives.mixtures import mixture
from toolchain.models.outputs import logits_of

__all__ = ["Mixed", "Speaker", "next_of"]


@runtime_checkable
class Speaker(Protocol):
    """A teacher that can be asked for the next token alone.

    One that runs `abreast` is asked equally often by all ranks, for as many tokens.
    """

    @property
    def abreast(self) -> bool:
        """Whether its weights are in pieces, so that all ranks take part in each pass."""

    def next_token(
        self, ids_RN: Tensor, mask_RN: Tensor, past: Cache | None
    ) -> tuple[Tensor, Cache]:
        """Return logits (R, V) behind texts padded on the left, and what it keeps of them.

        `ids_RN` are the tokens behind those of `past`, `mask_RN` is 1 at real tokens of both.
        """


class Mixed(LogitsProcessor):
    """Puts log(share p + (1 - share) q) in the place of the student's scores, p the teacher's.

    One object serves one call of `generate`: the teacher reads each token once. Prompts are padded
    to `width`, the longest of all ranks'.
    """

    def __init__(
        self, teacher: Speaker, share: float, prompts: Sequence[Tensor], width: int
    ) -> None:
        self._teacher, self._share = teacher, share
        lengths_R = torch.tensor([len(prompt) for prompt in prompts])
        mask_RW = torch.arange(width) >= width - lengths_R[:, None]
        self._mask_RN = mask_RW.long().to(prompts[0].device)
        self._past: Cache | None = None
        self._read = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, N) tokens so far, (R, V) scores of the student -> (R, V) log-probabilities."""
        log_p, log_q = (x.float().log_softmax(-1) for x in (self._heard(input_ids), scores))
        return mixture(log_p, log_q, self._share)

    def idle(self) -> None:
        """Have the teacher read on for nothing: other ranks still write, and ask it too."""
        texts, width = self._mask_RN.shape
        self._heard(self._mask_RN.new_zeros(texts, max(width, self._read + 1)))

    def _heard(self, ids_RN: Tensor) -> Tensor:
        """Return what the teacher says (R, V) behind these texts, which go on where it stopped."""
        new, first = ids_RN.shape[1] - self._mask_RN.shape[1], self._read
        # What follows an end token is padding, which nobody reads.
        self._mask_RN = torch.nn.functional.pad(self._mask_RN, (0, new), value=1)
        self._read = ids_RN.shape[1]
        said, self._past = self._teacher.next_token(ids_RN[:, first:], self._mask_RN, self._past)
        return said


def next_of(
    model: PreTrainedModel, ids_RN: Tensor, mask_RN: Tensor, past: Cache | None
) -> tuple[Tensor, Cache]:
    """Return what a `Speaker` does of a model, in the precision and mode it finds."""
    places_RN = (mask_RN.cumsum(-1) - 1).clamp(min=0)[:, -ids_RN.shape[1] :]
    said = model(
        input_ids=ids_RN,
        attention_mask=mask_RN,
        position_ids=places_RN,
        past_key_values=past,
        use_cache=True,
    )
    return logits_of(said)[:, -1], said["past_key_values"]
