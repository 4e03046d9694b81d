"""Which tokens a student keeps, decided on a run's own texts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from toolchain.models.compress import token_embeddings
from toolchain.models.loading import load_tokenizer
from toolchain.models.vocabulary import Vocabulary, choose, frequencies, unreachable

__all__ = ["choose_tokens"]


def choose_tokens(
    teacher: Path, model: PreTrainedModel, texts: Sequence[str], count: int
) -> Vocabulary:
    """Return the `count` tokens that the texts use most; `model` is the one in folder `teacher`.

    Raises UsageError when there is no room for an ordinary token.
    """
    tokenizer, table_VD = load_tokenizer(teacher), token_embeddings(model)
    encoded = tokenizer(list(texts), return_attention_mask=False, truncation=False, verbose=False)
    rows = (np.asarray(ids, dtype=np.int64) for ids in encoded["input_ids"])
    return choose(
        frequencies(rows, len(table_VD)),
        table_VD,
        count,
        special=tokenizer.all_special_ids,
        last=unreachable(tokenizer.get_vocab(), len(table_VD)),
    )
