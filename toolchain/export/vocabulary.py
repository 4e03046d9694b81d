"""The tokenizer of a student with fewer tokens: new ids without a map to carry along."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from toolchain.artifact import write_atomic
from toolchain.errors import IntegrityError
from toolchain.export.tokenizer import PROBES, save_tokenizer
from toolchain.models.loading import load_tokenizer
from toolchain.models.vocabulary import Vocabulary, compressed_tokenizer

__all__ = ["save_compressed_tokenizer"]


def save_compressed_tokenizer(
    source: Path, out: Path, vocabulary: Vocabulary, texts: Iterable[str] = ()
) -> None:
    """Write the tokenizer of model folder `source` into folder `out`, giving new ids.

    It is proved on the probing texts and on `texts`: each id is the old one's new id. There is no
    vocab.txt beside it: several tokens have one id, and such a file has one line per id.

    Raises UsageError for a tokenizer whose tokens cannot share ids, IntegrityError when the
    written one gives other ids.
    """
    save_tokenizer(source, out)
    path = out / "tokenizer.json"
    content = compressed_tokenizer(json.loads(path.read_text(encoding="utf-8")), vocabulary)
    write_atomic(path, json.dumps(content, ensure_ascii=False, indent=2))
    (out / "vocab.txt").unlink(missing_ok=True)
    _renumber(out / "tokenizer_config.json", vocabulary)
    _prove(source, out, vocabulary, [*PROBES, *texts])


def _renumber(path: Path, vocabulary: Vocabulary) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    if "added_tokens_decoder" in config:
        config["added_tokens_decoder"] = {
            str(vocabulary.new_of_old[int(number)]): token
            for number, token in config["added_tokens_decoder"].items()
        }
        write_atomic(path, json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _prove(source: Path, out: Path, vocabulary: Vocabulary, texts: list[str]) -> None:
    old = load_tokenizer(source)(texts, truncation=False, padding=False)["input_ids"]
    new = load_tokenizer(out)(texts, truncation=False, padding=False)["input_ids"]
    for text, ids, found in zip(texts, old, new, strict=True):
        expected = vocabulary.map(np.asarray(ids, dtype=np.int64)).tolist()
        if found != expected:
            raise IntegrityError(
                f"{out}: the tokenizer with fewer tokens gives {found[:8]} for {text[:24]!r}, "
                f"expected {expected[:8]}"
            )
