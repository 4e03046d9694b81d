"""Whether two model folders cut text into the same tokens. Read without importing transformers."""

import json
from pathlib import Path
from typing import Any

from toolchain.artifact import digest_of
from toolchain.errors import UsageError
from toolchain.models.vocabulary import read_vocabulary

__all__ = ["reads_tokens_of", "same_tokenizer", "tokenizer_digest"]

# What depends on how a tokenizer was last called, not on how it cuts text.
_PASSING = ("truncation", "padding", "version")


def same_tokenizer(one: Path, other: Path) -> bool:
    """Return whether the tokenizers of two folders are the same.

    tokenizer.json says everything; where only vocab.txt is there, vocabulary and lower-casing are
    compared. Raises UsageError for a file that cannot be read.
    """
    files = [folder / "tokenizer.json" for folder in (one, other)]
    if all(file.is_file() for file in files):
        first, second = (_read(file) for file in files)
        return first == second
    return _vocabulary(one) == _vocabulary(other) and _lower(one) == _lower(other)


def tokenizer_digest(folder: Path) -> str:
    """Return a digest of how a folder's tokenizer cuts text. Raises UsageError."""
    if (folder / "tokenizer.json").is_file():
        return digest_of(_read(folder / "tokenizer.json"))
    return digest_of([_vocabulary(folder), _lower(folder)])


def reads_tokens_of(student: Path, teacher: Path) -> bool:
    """Return whether a student cuts text as a teacher does: ids may be those it keeps of these."""
    if same_tokenizer(student, teacher):
        return True
    kept = read_vocabulary(student)
    if kept is None or _lower(student) != _lower(teacher):
        return False
    theirs = _vocabulary(teacher)
    if not theirs or max(theirs.values()) >= len(kept.new_of_old):
        return False
    mapped = {token: int(kept.new_of_old[number]) for token, number in theirs.items()}
    return mapped == _vocabulary(student)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{file}: not a tokenizer")
    return {key: value for key, value in content.items() if key not in _PASSING}


def _vocabulary(folder: Path) -> dict[str, int]:
    if (folder / "tokenizer.json").is_file():
        model = _read(folder / "tokenizer.json").get("model", {})
        vocab = model.get("vocab", {})
        # Unigram models list pairs of token and score.
        return (
            dict(vocab) if isinstance(vocab, dict) else {str(v[0]): i for i, v in enumerate(vocab)}
        )
    if not (folder / "vocab.txt").is_file():
        raise UsageError(f"{folder}: no tokenizer.json or vocab.txt", "add the model's tokenizer")
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return {token: number for number, token in enumerate(lines)}


def _lower(folder: Path) -> bool:
    if (folder / "tokenizer.json").is_file():
        normalizer = _read(folder / "tokenizer.json").get("normalizer") or {}
        return bool(normalizer.get("lowercase", False))
    settings = folder / "tokenizer_config.json"
    return bool(_read(settings).get("do_lower_case", True)) if settings.is_file() else True
