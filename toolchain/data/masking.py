"""Masked language modelling: which tokens of a row are hidden at which step.

BERT (Devlin et al. 2019, section 3.1): 15 % of the tokens are to be predicted; of these 80 % are
replaced by the mask token, 10 % by a random one, 10 % stay. Which, follows from seed, row and step
alone: a run that was killed, and every rank of a larger one, hides the same tokens. Evaluation
hides the same ones each time.

Shape letters: N tokens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from toolchain.errors import UsageError

__all__ = ["IGNORED", "Masking"]

Ids = NDArray[np.int64]

IGNORED = -100
"""The label of a position that is not supervised, as in PyTorch."""

_PART = 0.15
_MASKED, _RANDOM = 0.8, 0.9


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How one tokenizer's rows are masked. `special` tokens are neither hidden nor drawn."""

    mask_id: int
    vocab: int
    special: tuple[int, ...]
    seed: int = 0

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> "Masking":
        """Return the masking for a tokenizer. Raises UsageError without a mask token."""
        mask_id = tokenizer.mask_token_id
        if not isinstance(mask_id, int):
            raise UsageError(
                "the tokenizer has no mask token, so no masked language model can be trained",
                "use a masked encoder such as BERT, or set data.task=causal_lm",
            )
        special = tuple(sorted({int(i) for i in tokenizer.all_special_ids}))
        # Tokens may share ids, so their number is not that of the ids.
        size = max(tokenizer.get_vocab().values()) + 1
        return Masking(mask_id=mask_id, vocab=size, special=special, seed=seed)

    def apply(self, ids_N: Ids, *, row: int, step: int | None) -> tuple[Ids, Ids]:
        """Return the ids with some hidden, and labels: the hidden ids, IGNORED elsewhere.

        At least one token is hidden where there is one that is not special. `step` is None for
        evaluation.
        """
        random = np.random.default_rng([self.seed, 0 if step is None else step + 1, row])
        maskable = np.flatnonzero(~np.isin(ids_N, self.special))
        count = min(len(maskable), max(1, round(_PART * len(maskable))))
        chosen = random.permutation(maskable)[:count]
        labels_N = np.full_like(ids_N, IGNORED)
        labels_N[chosen] = ids_N[chosen]
        fate = random.random(count)
        drawn = self._words(random, count)
        hidden_N = ids_N.copy()
        hidden_N[chosen] = np.where(
            fate < _MASKED, self.mask_id, np.where(fate < _RANDOM, drawn, ids_N[chosen])
        )
        return hidden_N, labels_N

    def _words(self, random: np.random.Generator, count: int) -> Ids:
        """Draw ordinary tokens: numbers among those that are not special, moved past these."""
        drawn = random.integers(0, self.vocab - len(self.special), size=count)
        for special in self.special:
            drawn += drawn >= special
        return drawn
