"""Which tokens a student keeps, decided on a run's own texts, and the note of it in its folder."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from toolchain.artifact import write_atomic
from toolchain.models.compress import token_embeddings
from toolchain.models.loading import load_tokenizer
from toolchain.models.vocabulary import Vocabulary, choose, frequencies, unreachable

__all__ = ["choose_tokens", "read_vocabulary", "write_vocabulary"]

_FILE = "vocabulary.json"


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


def write_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """Note in a student's folder which ids of its teacher its own stand for."""
    content = {
        "kept": vocabulary.kept.tolist(),
        "new_of_old": vocabulary.new_of_old.tolist(),
    }
    write_atomic(folder / _FILE, json.dumps(content))


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """Return what was noted; None for a student that reads its teacher's ids."""
    path = folder / _FILE
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return Vocabulary(
        *(np.asarray(content[name], dtype=np.int64) for name in ("kept", "new_of_old"))
    )
