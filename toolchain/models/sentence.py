"""How the states of a text become its embedding, as sentence-transformers writes it in a folder.

`modules.json` lists what follows the encoder: `1_Pooling` and, for vectors of length one,
`2_Normalize`. A folder with these files loads in sentence-transformers as it is.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from toolchain.artifact import write_atomic
from toolchain.errors import UsageError

__all__ = ["FILES", "MODULES", "Pooling", "Sentence", "read_sentence", "write_sentence"]

Pooling = Literal["cls", "max", "mean"]

MODULES = "modules.json"
_POOLING, _NORMALIZE = "1_Pooling", "2_Normalize"
_LIMITS = "sentence_bert_config.json"
FILES = (MODULES, _LIMITS, f"{_POOLING}/config.json")
"""What `write_sentence` writes, relative to the model's folder."""

_KEYS: Mapping[Pooling, str] = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
}
_OTHERS = (
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
)
_PACKAGE = "sentence_transformers.models."


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """What is taken of the last states: the first token's, their mean, or the largest of each.

    `max_tokens` is the most of a text that is read, where a folder says so.
    """

    pooling: Pooling = "mean"
    normalize: bool = True
    max_tokens: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as a configuration carries it."""
        return asdict(self)


def read_sentence(folder: Path) -> Sentence | None:
    """Return what a folder says, None for one that is not of sentence-transformers.

    Raises UsageError for modules or a pooling that are not supported.
    """
    if not (folder / MODULES).is_file():
        return None
    listed = _read(folder / MODULES, list)
    kinds = []
    for entry in listed:
        if not isinstance(entry, dict):
            raise UsageError(f"{folder / MODULES}: expected a list of modules, found {entry!r}")
        kinds.append(str(entry.get("type", "")).rsplit(".", 1)[-1])
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise UsageError(
            f"{folder}: its modules are {', '.join(kinds)}",
            "models of Transformer, Pooling and, at most, Normalize are supported",
        )
    if listed[0].get("path"):
        raise UsageError(
            f"{folder}: its encoder lies in {listed[0]['path']!r}, expected beside {MODULES}",
            "save it again with a current sentence-transformers",
        )
    settings = _read(folder / str(listed[1].get("path") or _POOLING) / "config.json", dict)
    limits = _read(folder / _LIMITS, dict) if (folder / _LIMITS).is_file() else {}
    if limits.get("do_lower_case"):
        raise UsageError(
            f"{folder}: {_LIMITS} asks for lower case outside the tokenizer",
            "move it into the tokenizer (do_lower_case in tokenizer_config.json)",
        )
    longest = limits.get("max_seq_length")
    return Sentence(
        pooling=_pooling(settings, folder),
        normalize=len(kinds) == 3,
        max_tokens=longest if isinstance(longest, int) and longest > 0 else None,
    )


def write_sentence(folder: Path, sentence: Sentence, *, width: int) -> None:
    """Write the files that make a model folder one of sentence-transformers."""
    kinds = [("", "Transformer"), (_POOLING, "Pooling")]
    if sentence.normalize:
        kinds.append((_NORMALIZE, "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": _PACKAGE + kind}
        for i, (path, kind) in enumerate(kinds)
    ]
    settings: dict[str, object] = {"word_embedding_dimension": width}
    settings |= {key: pooling == sentence.pooling for pooling, key in _KEYS.items()}
    limits = {"max_seq_length": sentence.max_tokens, "do_lower_case": False}
    for path, content in (
        (MODULES, modules),
        (f"{_POOLING}/config.json", settings),
        (_LIMITS, limits),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / path, json.dumps(content, indent=2) + "\n")


def _pooling(settings: Mapping[str, Any], folder: Path) -> Pooling:
    named = settings.get("pooling_mode")
    on = [p for p, key in _KEYS.items() if settings.get(key) is True or named == p]
    others = [key for key in _OTHERS if settings.get(key) is True]
    if len(on) != 1 or others:
        found = [*on, *others] or [str(named)]
        raise UsageError(
            f"{folder}: its pooling is {' and '.join(found)}",
            f"one of {', '.join(_KEYS)} is supported",
        )
    return on[0]


def _read(path: Path, kind: type) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    if not isinstance(found, kind):
        raise UsageError(f"{path}: expected a JSON {kind.__name__}, found {type(found).__name__}")
    return cast(Any, found)
