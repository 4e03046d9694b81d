"""How a tokenizer of BERT's kind reads, taken apart so that a graph can read the same way."""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from toolchain.errors import UsageError
from toolchain.export.characters import Characters, read_characters
from toolchain.models.loading import load_tokenizer

__all__ = ["Piece", "Reading", "read_reading"]

# The longest word that onnxruntime-extensions looks up; longer ones are unknown.
_LONGEST = 100


@dataclass(frozen=True)
class Piece:
    """A part of a row: text 0 or 1 of it, or a special token; all its tokens have one type."""

    type_id: int
    token: int | None = None
    text: int | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All that decides which ids a row of texts gets.

    `vocabulary` lists tokens by id; `specials` are found in raw text before anything else;
    `single` and `pair` are the pieces of a row of one and of two texts.
    """

    characters: Characters
    vocabulary: tuple[str, ...]
    unknown: str
    prefix: str
    specials: Mapping[str, int]
    single: tuple[Piece, ...]
    pair: tuple[Piece, ...]
    pad_id: int
    pad_type_id: int

    def pieces(self, texts: int) -> tuple[Piece, ...]:
        """Return the pieces of a row of 1 or 2 texts."""
        return self.single if texts == 1 else self.pair


def read_reading(folder: Path) -> Reading:
    """Take the tokenizer of a folder apart.

    Raises UsageError, whose message says in what it is not of BERT's kind.
    """
    tokenizer = load_tokenizer(folder)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model, normalizer = content["model"], content.get("normalizer") or {}
    splitter = content.get("pre_tokenizer") or {}
    _expect(model.get("type") == "WordPiece", f"cuts words by {model.get('type')}, not WordPiece")
    for part, expected in ((normalizer, "BertNormalizer"), (splitter, "BertPreTokenizer")):
        found = part.get("type") or "nothing"
        _expect(found == expected, f"prepares text by {found}, not {expected}")
    _expect(bool(normalizer.get("clean_text")), "keeps control characters")
    limit = model["max_input_chars_per_word"]
    _expect(limit == _LONGEST, f"looks up words of up to {limit} characters, not {_LONGEST}")
    _expect(tokenizer.truncation_side == "right", "cuts long texts at their beginning")
    _expect(tokenizer.padding_side == "right", "pads on the left")
    vocabulary = _vocabulary(model["vocab"])
    added = _added(content.get("added_tokens", []))
    pieces = _template(content.get("post_processor") or {}, {**model["vocab"], **added})
    characters = read_characters(Tokenizer.from_str(json.dumps(content)))
    _check_marks(characters, vocabulary)
    return Reading(
        characters=characters,
        vocabulary=vocabulary,
        unknown=str(model["unk_token"]),
        prefix=str(model["continuing_subword_prefix"]),
        specials=added,
        single=pieces[0],
        pair=pieces[1],
        pad_id=int(tokenizer.pad_token_id),
        pad_type_id=int(tokenizer.pad_token_type_id),
    )


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UsageError(f"its tokenizer {otherwise}")


def _vocabulary(numbered: Mapping[str, int]) -> tuple[str, ...]:
    tokens = sorted(numbered, key=numbered.__getitem__)
    lines = [numbered[token] for token in tokens] == list(range(len(tokens)))
    _expect(lines, "numbers its tokens with gaps")
    plain = all(token and "\n" not in token for token in tokens)
    _expect(plain, "has a token that is no line of text")
    return tuple(tokens)


def _added(entries: list[dict[str, Any]]) -> dict[str, int]:
    """Return the tokens that are found in raw text, wherever they stand."""
    found = {}
    for entry in entries:
        name = entry["content"]
        # Blanks beside a token end words anyway, so whether it takes them does not matter.
        _expect(not entry["normalized"], f"looks for {name!r} in changed text")
        _expect(not entry["single_word"], f"looks for {name!r} between words only")
        found[name] = int(entry["id"])
    for one in found:
        for other in found:
            ends = (one[-size:] for size in range(1, min(len(one), len(other))))
            clash = one != other and (one in other or any(other.startswith(end) for end in ends))
            _expect(not clash, f"has special tokens that overlap, {one!r} and {other!r}")
    return found


def _template(
    processor: Mapping[str, Any], ids: Mapping[str, int]
) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    kind = processor.get("type")
    if kind == "TemplateProcessing":
        special = {name: entry["ids"] for name, entry in processor["special_tokens"].items()}
        return _written(processor["single"], special), _written(processor["pair"], special)
    _expect(kind in ("BertProcessing", "RobertaProcessing"), f"frames texts by {kind or 'nothing'}")
    begin, end = Piece(0, token=ids[processor["cls"][0]]), Piece(0, token=ids[processor["sep"][0]])
    first, second = Piece(0, text=0), Piece(0, text=1)
    if kind == "RobertaProcessing":
        return (begin, first, end), (begin, first, end, end, second, end)
    typed, last = Piece(1, text=1), Piece(1, token=end.token)
    return (begin, first, end), (begin, first, end, typed, last)


def _written(pieces: list[dict[str, Any]], special: Mapping[str, list[int]]) -> tuple[Piece, ...]:
    found: list[Piece] = []
    for piece in pieces:
        if "Sequence" in piece:
            entry = piece["Sequence"]
            found.append(Piece(entry["type_id"], text=0 if entry["id"] == "A" else 1))
        else:
            entry = piece["SpecialToken"]
            found += [Piece(entry["type_id"], token=number) for number in special[entry["id"]]]
    return tuple(found)


def _check_marks(characters: Characters, vocabulary: tuple[str, ...]) -> None:
    """Refuse where the order of combining marks, which normalising may change, could matter."""
    known = {character for token in vocabulary for character in token}
    marks = [c for c in known if unicodedata.combining(c) and ord(c) not in characters.removed]
    _expect(not (characters.mapped and marks), f"has tokens with combining marks, {marks[:1]!r}")
