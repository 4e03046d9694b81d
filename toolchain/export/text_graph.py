"""A graph that reads text: strings in, ids out, exactly as the tokenizer beside it does.

onnxruntime-extensions' own BERT tokenizer is not exact: it strips the accents of some letters
only, knows other blanks, control characters and punctuation, keeps the known beginning of a word
with an unknown rest, finds no special tokens, and takes one row at a time. So it only looks words
up here. Characters are replaced before by the tables of `characters`; words, texts and special
tokens travel through it as characters that the tokenizer would have removed, and what it answers
is put in order by plain integer operators, for all rows at once.

Shape letters: R rows, S texts (R, or 2R of pairs), T what is looked up, W words, M tokens, N tokens
a row.
"""

from collections.abc import Collection

from onnx import TensorProto

from toolchain.errors import UsageError
from toolchain.export.characters import Characters, regex_class
from toolchain.export.nodes import CUSTOM, Nodes
from toolchain.export.reading import Reading
from toolchain.export.text_rows import tokens_in_rows

__all__ = ["TEXT", "text_graph"]

TEXT = "text"
"""The input: strings, (R,) for single texts and (R, 2) for pairs."""

# A private character for every part that is no text: a filler, the end of a word, the end of a
# text, and special tokens from there on. The tokenizer removes these from any text.
_FIRST = 0xE000
_FILLER, _WORD, _ROW = (chr(_FIRST + i) for i in range(3))

# Latin letters, general punctuation, the euro.
_COMMON = (*range(0x180), *range(0x2000, 0x2070), 0x20AC)


def text_graph(reading: Reading, *, texts: int, max_tokens: int) -> tuple[Nodes, dict[str, str]]:
    """Return nodes that read `TEXT`, and the names of what they give: input_ids, attention_mask
    and token_type_ids, each int64 (R, N), cut to `max_tokens` and padded to the longest row.

    Raises UsageError where `max_tokens` leaves no room for text.
    """
    pieces = reading.pieces(texts)
    room = max_tokens - sum(piece.token is not None for piece in pieces)
    if room < texts:
        raise UsageError(f"{max_tokens} tokens leave no room for text")
    nodes = Nodes("tokenizer/")
    flat = nodes.add("Reshape", TEXT, nodes.numbers([-1]))
    words = _words(nodes, reading, flat)
    ids_M, text_M = _tokens(nodes, reading, words)
    return nodes, tokens_in_rows(nodes, reading, pieces, (flat, ids_M, text_M), room=room)


def _marks(reading: Reading) -> dict[str, str]:
    """Return the private character of each special token."""
    return {name: chr(_FIRST + 3 + i) for i, name in enumerate(reading.specials)}


def _words(nodes: Nodes, reading: Reading, flat_S: str) -> str:
    """Return one text (1,): all words of all texts with blanks between."""
    characters, marks = reading.characters, _marks(reading)
    private = {_FILLER, _WORD, _ROW, *marks.values()}
    codes = {ord(c) for c in private}
    if not codes <= characters.removed:
        raise UsageError("its tokenizer keeps private characters")
    # Operators of the extensions end a text at a NUL, so these go first, by the one that doesn't.
    parts = nodes.add("StringSplit", flat_S, outputs=2, delimiter=b"\x00")
    text = nodes.add("StringJoin", parts, nodes.text(_FILLER), nodes.numbers([1]), domain=CUSTOM)
    text = nodes.replace(text, regex_class(codes), _FILLER)
    for name, mark in marks.items():
        text = nodes.replace(text, _escaped(name), mark)
    text = nodes.add("StringJoin", text, nodes.text(_ROW), nodes.numbers([0]), domain=CUSTOM)
    # Classes of hundreds of ranges are compiled for every call, which takes longer than a small
    # model; texts of common characters need short ones.
    common = frozenset({*_COMMON, *codes})
    pattern = f"{regex_class(common)}*"
    is_common = nodes.add("RegexFullMatch", text, pattern=pattern.encode("utf-8"))
    return nodes.choose(
        is_common,
        text,
        lambda part, given: _split(part, reading, given, characters.within(common), codes),
        lambda part, given: _split(part, reading, given, characters, codes),
    )


def _split(
    nodes: Nodes, reading: Reading, text: str, characters: Characters, codes: Collection[int]
) -> str:
    """Return the words of one text (1,), normalised, with the mark of a word's end between."""
    private = frozenset(codes)
    text = nodes.replace(text, regex_class(characters.removed - private | {_FIRST}), "")
    text = nodes.replace(text, regex_class(characters.spaces), " ")
    text = _mapped(nodes, _needed(reading, characters), text)
    alone = (characters.isolated | private) - {_FIRST, _FIRST + 1}
    text = nodes.replace(text, regex_class(alone), r" \0 ")
    text = nodes.replace(text, "^ +", "")
    return nodes.replace(text, " +", f" {_WORD} ")


def _escaped(text: str) -> str:
    return "".join(f"\\x{{{ord(c):x}}}" for c in text)


def _needed(reading: Reading, characters: Characters) -> dict[int, str]:
    """Leave out what changes a character no token holds to others no token holds."""
    known = {ord(c) for token in reading.vocabulary for c in token}
    known |= characters.isolated
    return {
        code: text
        for code, text in characters.mapped.items()
        if code in known or any(ord(c) in known for c in text)
    }


def _mapped(nodes: Nodes, mapped: dict[int, str], text: str) -> str:
    """Replace single characters of one text (1,) by what they become."""
    if not mapped:
        return text
    pattern = nodes.text(f"({regex_class(mapped)})")
    parts = nodes.add(
        "StringRegexSplitWithOffsets", text, pattern, pattern, domain=CUSTOM, outputs=4
    )
    table = "\n".join(f"{chr(code)}\t{becomes}" for code, becomes in sorted(mapped.items()))
    parts = nodes.add("StringMapping", parts, domain=CUSTOM, map=table.encode("utf-8"))
    return nodes.add("StringJoin", parts, nodes.text(""), nodes.numbers([0]), domain=CUSTOM)


def _tokens(nodes: Nodes, reading: Reading, words: str) -> tuple[str, str]:
    """Return the ids (M,) of all texts, and of which text each is (M,)."""
    size, marks = len(reading.vocabulary), _marks(reading)
    word_id, row_id = size, size + 1
    lines = (*reading.vocabulary, _WORD, _ROW, *marks.values())
    names = dict.fromkeys(("cls_token", "sep_token", "pad_token", "mask_token"), reading.unknown)
    framed = nodes.add(
        "BertTokenizer",
        words,
        domain=CUSTOM,
        outputs=4,
        vocab_file="\n".join(lines).encode("utf-8"),
        do_basic_tokenize=0,
        suffix_indicator=reading.prefix,
        unk_token=reading.unknown,
        **names,
    )
    one, zero = nodes.numbers([1]), nodes.numbers([0])
    looked_T = nodes.add("Slice", framed, one, nodes.numbers([-1]), zero)
    ends_word_T = _is(nodes, looked_T, word_id)
    ends_text_T = _is(nodes, looked_T, row_id)
    text_T = nodes.add("CumSum", ends_text_T, nodes.number(0))
    word_T = nodes.add("CumSum", ends_word_T, nodes.number(0))
    # Of a word with an unknown part nothing is known: its first token says so, its others go.
    unknown_T = _is(nodes, looked_T, reading.vocabulary.index(reading.unknown))
    count = nodes.add("Add", nodes.add("Shape", looked_T), one)
    none = nodes.add("Expand", zero, count)
    bad_W = nodes.add("ScatterElements", none, word_T, unknown_T, axis=0, reduction="max")
    bad_T = nodes.add("Gather", bad_W, word_T)
    before_T = nodes.add("Concat", one, ends_word_T, axis=0)
    first_T = nodes.add("Slice", before_T, zero, nodes.numbers([-1]), zero)
    # 0 or 1 each: a token stays when it ends nothing and is first in its word or the word is known.
    ends_T = nodes.add("Max", ends_word_T, ends_text_T)
    good_T = nodes.add("Max", first_T, nodes.add("Sub", one, bad_T))
    stays_T = _true(nodes, nodes.add("Mul", good_T, nodes.add("Sub", one, ends_T)))
    real = [*range(size), 0, 0, *reading.specials.values()]
    ids_T = nodes.add("Gather", nodes.numbers(real), looked_T)
    unknown = nodes.number(reading.vocabulary.index(reading.unknown))
    ids_T = nodes.add("Where", _true(nodes, bad_T), unknown, ids_T)
    return (
        nodes.add("Compress", ids_T, stays_T, axis=0),
        nodes.add("Compress", text_T, stays_T, axis=0),
    )


def _is(nodes: Nodes, numbers: str, value: int) -> str:
    same = nodes.add("Equal", numbers, nodes.number(value))
    return nodes.add("Cast", same, to=TensorProto.INT64)


def _true(nodes: Nodes, numbers: str) -> str:
    return nodes.add("Cast", numbers, to=TensorProto.BOOL)
