"""A smaller vocabulary: which token ids are kept, and which kept one stands for each dropped one.

GLMD (arXiv 2306.06625): the embedding table and the language head shrink to the tokens that occur
most, and every other token is read as the kept one whose embedding points the same way. Here are
the numbers, the note of them in a student's folder and the tokenizer file; `select_tokens` in
`toolchain.models.build` cuts the weights.

Shape letters: V old ids, K kept ids, D features of an embedding.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.artifact import write_atomic
from toolchain.errors import UsageError

__all__ = [
    "Vocabulary",
    "check_shareable",
    "choose",
    "compressed_tokenizer",
    "frequencies",
    "kept_count",
    "read_vocabulary",
    "unreachable",
    "write_vocabulary",
]

Ids = NDArray[np.int64]

# Cosines that are alive together, in values: 2^24 of fp32 are 64 MiB.
_COSINES = 1 << 24
_FILE = "vocabulary.json"
_UNUSED = re.compile(r"^\[unused\d+\]$")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Ids kept (K,), ascending; a kept id's place among them is its new id.

    `new_of_old` (V,) gives the new id of every old one.
    """

    kept: Ids
    new_of_old: Ids

    def __len__(self) -> int:
        """Return the number of new ids, K."""
        return len(self.kept)

    def map(self, ids: Ids) -> Ids:
        """Return new ids; negative ones (labels of positions that count for nothing) stay."""
        return np.where(ids < 0, ids, self.new_of_old[np.maximum(ids, 0)])


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


def kept_count(asked: float, vocab: int) -> int:
    """Return how many ids to keep: a part of them up to 1, or a number. Raises UsageError."""
    count = round(asked * vocab) if asked <= 1 else int(asked)
    if asked > 1 and asked != count:
        raise UsageError(
            f"student.vocab is {asked:g}", "give a part such as 0.5 or a whole number of tokens"
        )
    if not 0 < count <= vocab:
        raise UsageError(f"student.vocab is {asked:g}, the teacher has {vocab:,} tokens")
    return count


def frequencies(rows: Iterable[Ids], vocab: int) -> Ids:
    """Return how often each id occurs in the rows, (V,)."""
    counts = np.zeros(vocab, dtype=np.int64)
    for ids in rows:
        np.add.at(counts, ids, 1)
    return counts


def unreachable(tokens: Mapping[str, int], vocab: int) -> Ids:
    """Return the ids that stand for no text: rows beyond the tokenizer's, BERT's [unused0] ..."""
    texts = [i for token, i in tokens.items() if not _UNUSED.match(token)]
    return np.setdiff1d(np.arange(vocab), np.asarray(texts, dtype=np.int64))


def choose(
    counts_V: Ids,
    embeddings_VD: NDArray[np.float32],
    count: int,
    *,
    special: Iterable[int],
    last: Iterable[int] = (),
) -> Vocabulary:
    """Keep the special ids and the most frequent others, `count` in all.

    Of equally frequent ids those of `last` are dropped first, then the higher ones: vocabularies
    list common tokens first. A dropped id
    becomes the kept one whose embedding has the largest cosine with its own; never a special one.
    Raises UsageError when there is no room for an ordinary token.
    """
    fixed = np.unique(np.asarray(list(special), dtype=np.int64))
    if count <= len(fixed):
        raise UsageError(
            f"student.vocab keeps {count} tokens, {len(fixed)} of them are special", "keep more"
        )
    ordinary = np.setdiff1d(np.arange(len(counts_V)), fixed)
    late = np.isin(ordinary, np.asarray(list(last), dtype=np.int64))
    ranked = ordinary[np.lexsort((ordinary, late, -counts_V[ordinary]))]
    chosen, dropped = np.sort(ranked[: count - len(fixed)]), ranked[count - len(fixed) :]
    kept = np.sort(np.concatenate([fixed, chosen]))
    new_of_old = np.empty(len(counts_V), dtype=np.int64)
    new_of_old[kept] = np.arange(len(kept))
    new_of_old[dropped] = new_of_old[_nearest(embeddings_VD, dropped, chosen)]
    return Vocabulary(kept, new_of_old)


def _nearest(embeddings_VD: NDArray[np.float32], dropped: Ids, chosen: Ids) -> Ids:
    """Return the chosen id with the largest cosine for each dropped one."""
    lengths_V1 = np.linalg.norm(embeddings_VD, axis=1, keepdims=True)
    unit_VD = embeddings_VD / np.maximum(lengths_V1, np.finfo(np.float32).tiny)
    targets_DK = unit_VD[chosen].T.copy()
    size = max(1, _COSINES // len(chosen))
    nearest = [
        chosen[(unit_VD[dropped[start : start + size]] @ targets_DK).argmax(1)]
        for start in range(0, len(dropped), size)
    ]
    return np.concatenate([*nearest, np.empty(0, dtype=np.int64)])


def check_shareable(folder: Path) -> None:
    """Raise UsageError unless tokens of the tokenizer in a model folder can share ids."""
    path = folder / "tokenizer.json"
    if path.is_file():
        _check_kind(json.loads(path.read_text(encoding="utf-8")))


def _check_kind(content: Mapping[str, Any]) -> None:
    kind = content["model"].get("type")
    if kind != "WordPiece":
        raise UsageError(
            f"student.vocab: the tokenizer is a {kind} one, whose tokens cannot share an id",
            "drop student.vocab, or use a teacher with a WordPiece tokenizer such as BERT's",
        )


def compressed_tokenizer(content: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return a tokenizer.json that gives new ids: its output is the old one's, mapped.

    Dropped tokens stay in a WordPiece vocabulary and share the id of their stand-in, so text is
    cut as before. Raises UsageError for other models: BPE merges and Unigram scores go by id, so
    two of their tokens cannot share one.
    """
    _check_kind(content)
    new = vocabulary.new_of_old
    changed = dict(content)
    tokens = content["model"]["vocab"]
    changed["model"] = {**content["model"], "vocab": {t: int(new[i]) for t, i in tokens.items()}}
    changed["added_tokens"] = [
        {**token, "id": int(new[token["id"]])} for token in content.get("added_tokens") or ()
    ]
    if content.get("padding"):
        padding = content["padding"]
        changed["padding"] = {**padding, "pad_id": int(new[padding["pad_id"]])}
    if content.get("post_processor"):
        changed["post_processor"] = _framing(content["post_processor"], new)
    return changed


def _framing(processor: Mapping[str, Any], new: Ids) -> dict[str, Any]:
    """Return what puts special tokens around a text, with new ids."""
    match processor.get("type"):
        case "TemplateProcessing":
            tokens = {
                name: {**token, "ids": [int(new[i]) for i in token["ids"]]}
                for name, token in processor["special_tokens"].items()
            }
            return {**processor, "special_tokens": tokens}
        case "BertProcessing" | "RobertaProcessing":
            ends = {
                name: [processor[name][0], int(new[processor[name][1]])] for name in ("sep", "cls")
            }
            return {**processor, **ends}
        case "Sequence":
            parts = [_framing(part, new) for part in processor["processors"]]
            return {**processor, "processors": parts}
        case _:
            # The others only move offsets.
            return dict(processor)
