"""Golden rows: texts whose tokens and outputs a device must reproduce.

Real rows of the task stand beside rows made to break tokenizers: accents in both forms, scripts
without spaces, emoji of several code points, control characters, text in the shape of special
tokens, nothing at all, and rows longer than the model takes.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from toolchain.bundle.about import Kind, Padding
from toolchain.bundle.forms import Form, OfPrompts, OfTokens, Row, Shipped, form_of
from toolchain.data.windows import window
from toolchain.errors import IntegrityError, UsageError

__all__ = ["golden_rows", "padding_of", "tricky_rows"]

# How many of the task's own rows are kept beside the tricky ones.
_OWN_ROWS = 64
# Of a row that is answered token by token, how many tokens are kept.
_PLACES = 16
# And of the outcomes of a vocabulary, how many of the highest.
_OUTCOMES = 16
# How many tokens a text is gone on with, as long as the likeliest is so far ahead.
_NEW_TOKENS, _CLOSE = 8, 0.5

_TRICKY = (
    "",
    " ",
    "\t \n \r\n",
    "a",
    "?!",
    "... --- ,,, ;;; ''' \"\"\"",
    "it 's n't \"quoted\" -- (really) [sic] {x} <b>bold</b> &amp;",
    "caf\u00e9 na\u00efve \u00fcber \u0141\u00f3d\u017a \u00c5ngstr\u00f6m",
    "cafe\u0301 nai\u0308ve u\u0308ber a\u030angstrom",
    "\u0130stanbul \u0131l\u0131k I\u0307",
    "stra\u00dfe STRASSE \u1e9e",
    "\ufb01ne \ufb02ow \uff26\uff55\uff4c\uff4c\uff11\uff12 \u2168 x\u00b2 \u00bd",
    "\u4f60\u597d\u4e16\u754c good\u4e16\u754cbad",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3067\u3059\u3002",
    "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    "\U00020000\U0002a6d6 rare ideographs",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0650\u0643\u064f\u0645",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd \u041f\u0440\u0438\u0432\u0435\u0442 \u039f\u03a3",
    "great \U0001f600 \U0001f44d\U0001f3fd \u2764\ufe0f",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea 1\ufe0f\u20e3",
    "zero\u200bwidth\u00adsoft\u2060join\ufeffmark",
    "hard\u00a0space\u2003em\u3000wide\u202fthin",
    "line\u2028paragraph\u2029next\u0085form\x0cfeed",
    "nul\x00bell\x07escape\x1b[31mred\x7f",
    "\ufffd \ue000 \ufdd0 \uffff",
    "\u202eright to left\u202c Z\u0310\u0311a\u0312\u0313l\u0314go",
    "[CLS] one [SEP] two [MASK] [UNK] [PAD]",
    "<s> </s> <pad> <|endoftext|>",
    "https://example.org/a?b=c&d=%20#e user@example.org #tag",
    "1,234.56 -7e-3 3/4 12:30 $5 \u20ac10 \u00a33 50%",
    "CamelCase snake_case kebab-case C++ C# .NET",
    "\u201ccurly\u201d \u2018quotes\u2019 \u2014 dash\u2026 \u00abguillemets\u00bb",
    "a" * 300,
)


class _Encoding(Protocol):
    """What is needed of a tokenizer's answer to a list of rows."""

    input_ids: list[list[int]]
    token_type_ids: list[list[int]]


def tricky_rows(kind: Kind, max_tokens: int) -> list[Row]:
    """Return at least 32 rows made to find differences; the last ones exceed `max_tokens`."""
    exact = " ".join(["good"] * max(1, max_tokens - 2))
    long = "the film is not bad " * (max_tokens // 4 + 4)
    texts = [*_TRICKY, exact, f"{exact} bad", long, "\u4e2d\u6587" * max_tokens]
    if kind == "single":
        return [(text,) for text in texts]
    step = len(texts) // 2 - 1
    pairs = [(text, texts[(i + step) % len(texts)]) for i, text in enumerate(texts)]
    return [*pairs, (long, "short"), ("short", long), (long, long)]


def padding_of(tokenizer: PreTrainedTokenizerFast) -> Padding:
    """Return how this tokenizer pads and truncates. Raises UsageError without a padding token."""
    pad_id, pad_token = tokenizer.pad_token_id, tokenizer.pad_token
    if not isinstance(pad_id, int) or not isinstance(pad_token, str):
        raise UsageError("the tokenizer has no padding token", "give it one and save it again")
    return Padding(
        pad_id=pad_id,
        pad_token=pad_token,
        pad_type_id=int(tokenizer.pad_token_type_id),
        truncation_side=str(tokenizer.truncation_side),
        mask_id=tokenizer.mask_token_id,
        mask_token=tokenizer.mask_token,
        # GPT-2 calls its one special token both, and it stands at the end alone.
        begin_id=None
        if tokenizer.bos_token_id == tokenizer.eos_token_id
        else tokenizer.bos_token_id,
        end_id=tokenizer.eos_token_id,
    )


def golden_rows(
    reference: PreTrainedTokenizerFast,
    shipped: Shipped,
    own: Sequence[Row],
    *,
    kind: Kind,
    max_tokens: int,
) -> list[dict[str, Any]]:
    """Return the content of golden.jsonl: the task's `own` rows first, then the tricky ones.

    Token ids are those of the Hugging Face tokenizer, outputs those of the shipped model on them,
    one row at a time. Raises IntegrityError where the shipped tokenizer gives other tokens, or
    the model an answer that is not finite.
    """
    form = form_of(shipped.task)
    tricky = tricky_rows(kind, max_tokens)
    if form.gap:
        own = [_with_gap(row, str(reference.mask_token)) for row in own]
    if form.words:
        tricky = [words for (text,) in tricky if (words := tuple(text.split()))]
    return [
        _golden(reference, shipped, form, row, max_tokens) for row in [*own[:_OWN_ROWS], *tricky]
    ]


def _golden(
    reference: PreTrainedTokenizerFast, shipped: Shipped, form: Form, row: Row, max_tokens: int
) -> dict[str, Any]:
    ids, type_ids = _expected(reference, form, row, max_tokens)
    feed = shipped.encode([row])
    _same("token ids", row, ids, feed["input_ids"])
    _same("type ids", row, type_ids, feed["token_type_ids"])
    logits = shipped.logits(feed)[0]
    if not np.isfinite(logits).all():
        raise IntegrityError(f"the model answers {logits.tolist()} to {_shown(row)}")
    return {
        **_texts(row, form),
        "input_ids": ids,
        "token_type_ids": type_ids,
        **(_at_places(shipped, row, logits) if form.per_token else _whole(shipped, logits)),
        **({"continuation": _continued(shipped, row)} if form.prompt else {}),
    }


def _expected(
    reference: PreTrainedTokenizerFast, form: Form, row: Row, max_tokens: int
) -> tuple[list[int], list[int]]:
    """Return the token and type ids that the Hugging Face tokenizer gives."""
    if form.prompt:
        ids = _prompt_ids(reference, row[0], max_tokens)
        return ids, [0] * len(ids)
    if form.windows:
        return _first_window(reference, row, max_tokens)
    # Lists, as in training: called with bare texts it takes an empty second one for none at all.
    expected: _Encoding = reference(
        *([[list(row)]] if form.words else [[text] for text in row]),
        is_split_into_words=form.words,
        truncation="longest_first",
        max_length=max_tokens,
        return_token_type_ids=True,
    )
    return expected.input_ids[0], expected.token_type_ids[0]


def _first_window(
    reference: PreTrainedTokenizerFast, row: Row, max_tokens: int
) -> tuple[list[int], list[int]]:
    """Return the first window of a question with its text."""
    whole = reference(*([text] for text in row), return_token_type_ids=True, verbose=False)
    kept = window(whole.encodings[0].sequence_ids, max_tokens)[0]
    ids, type_ids = whole["input_ids"][0], whole["token_type_ids"][0]
    return [ids[i] for i in kept], [type_ids[i] for i in kept]


def _prompt_ids(reference: PreTrainedTokenizerFast, text: str, max_tokens: int) -> list[int]:
    """Return a prompt as a decoder reads it: behind its begin token, the end of a long one."""
    ids: list[int] = reference(text, add_special_tokens=False, verbose=False)["input_ids"]
    begin, end = padding_of(reference).begin_id, reference.eos_token_id
    first = [] if begin is None else [begin]
    return [*first, *ids[max(0, len(ids) - max_tokens + len(first)) :]] or [int(end)]


def _continued(shipped: Shipped, row: Row) -> list[int]:
    """Return how the model goes on with a prompt, up to the first close call."""
    found = []
    for token, margin in cast(OfPrompts, shipped).steps(row[0], _NEW_TOKENS):
        if margin < _CLOSE:
            break
        found.append(token)
    return found


def _with_gap(row: Row, gap: str) -> Row:
    """Return a text with a gap in the place of its middle word."""
    words = row[0].split()
    words[len(words) // 2 : len(words) // 2 + 1] = [gap]
    return (" ".join(words),)


def _texts(row: Row, form: Form) -> dict[str, str | list[str]]:
    if form.words:
        return {"words": list(row)}
    return {"text": row[0]} if len(row) == 1 else {"text": row[0], "text_b": row[1]}


def _at_places(shipped: Shipped, row: Row, logits_NC: NDArray[np.float32]) -> dict[str, Any]:
    """Return the output at some of the tokens whose answers mean something, and what it means."""
    places = cast(OfTokens, shipped).places(row)
    chosen = [places[i * len(places) // _PLACES] for i in range(_PLACES)]
    kept = sorted(set(chosen if len(places) > _PLACES else places))
    logits_PC = logits_NC[kept]
    best_P = logits_PC.argmax(axis=1).tolist() if kept else []
    if shipped.labels:
        tags = [shipped.labels[best] for best in best_P]
        return {"positions": kept, "logits": logits_PC.tolist(), "tags": tags}
    highest = np.argsort(-logits_PC, axis=1, kind="stable")[:, :_OUTCOMES]
    return {
        "positions": kept,
        "outcomes": highest.tolist(),
        "logits": np.take_along_axis(logits_PC, highest, axis=1).tolist(),
        "tokens": best_P,
    }


def _whole(shipped: Shipped, logits_C: NDArray[np.float32]) -> dict[str, Any]:
    logits: list[float] = logits_C.tolist()
    return {"logits": logits, **_decision(shipped, logits)}


def _decision(shipped: Shipped, logits: list[float]) -> dict[str, str | list[str]]:
    """Return what the logits of a row mean: a label, the labels above 0.5, nothing for a score.

    Nor for a vector.
    """
    match shipped.task:
        case "regress" | "embed":
            return {}
        case "multi_label":
            on = [name for name, logit in zip(shipped.labels, logits, strict=True) if logit > 0]
            return {"labels": on}
        case _:
            return {"label": shipped.labels[logits.index(max(logits))]}


def _same(what: str, row: Row, expected: list[int], found_1N: NDArray[np.int64]) -> None:
    found = found_1N[0].tolist()
    if found != expected:
        raise IntegrityError(
            f"the {what} of {_shown(row)} are {found[:16]} with the shipped tokenizer.json, "
            f"expected {expected[:16]} as with the Hugging Face tokenizer",
            "save the tokenizer again with save_pretrained",
        )


def _shown(row: Row) -> str:
    return ascii(row[0] if len(row) == 1 else row)[:60]
