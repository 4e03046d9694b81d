"""Strategies of strings that tokenizers may disagree about, and tokenizers to try them on."""

from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import numpy as np
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "film", "is", "good", "##ing", "##ed", "un", "caf", "\u00e9t\u00e9", "\u03b1\u03b2"]
# Known alone, known in a word's middle alone, known inside a longer piece alone.
PARTLY = [
    "q",
    "##j",
    "xyz",
    "\u4e2d",
    "##\u6587",
    "\u1100",
    "##\u1161",
    "\u0430",
    "##\u0431",
    "\u00df",
]
SIGNS = [*"!?.,'-#[]<>/", "\u2014", "\u20ac", "\u3002"]
LETTERS = [c for c in ascii_lowercase if c not in "qjxyz"]

# Everything but surrogates, which no UTF-8 text holds, in equal parts by category.
CATEGORIES = (
    *("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe"),
    *("Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cn"),
)


def vocabulary(*, upper: bool = False, special: tuple[str, ...] = tuple(SPECIAL)) -> list[str]:
    """A small vocabulary in which words are known in all ways and in part."""
    letters = [*LETTERS, *(ascii_uppercase if upper else "")]
    pieces = [*letters, *(f"##{c}" for c in letters)]
    return list(dict.fromkeys([*special, *WORDS, *PARTLY, *SIGNS, *pieces]))


def save_wordpiece(
    folder: Path,
    tokens: list[str],
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    chinese: bool = True,
    roberta: bool = False,
) -> Path:
    """Save a tokenizer of BERT's kind, or of MPNet's with `roberta`."""
    ids = {token: number for number, token in enumerate(tokens)}
    pad, unk, cls, sep, mask = tokens[:5]
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=unk))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=chinese
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = (sep, ids[sep]), (cls, ids[cls])
    tokenizer.post_processor = (
        processors.RobertaProcessing(*ends) if roberta else processors.BertProcessing(*ends)
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        unk_token=unk,
        cls_token=cls,
        sep_token=sep,
        mask_token=AddedToken(mask, lstrip=True, special=True) if roberta else mask,
        pad_token_type_id=0,
    ).save_pretrained(folder)
    return folder


def texts(pieces: list[str], longest: int = 12) -> st.SearchStrategy[str]:
    """Strings of characters of every category, of common ones, and of a tokenizer's pieces."""
    parts = st.one_of(
        *(st.characters(categories=[category]) for category in CATEGORIES),
        st.sampled_from([*pieces, *(piece.removeprefix("##") for piece in pieces)]),
        st.sampled_from([" ", "\t", "\n", "\x00", "a", "B", "\u00c9", "e\u0301", "[MASK", "MASK]"]),
    )
    return st.lists(parts, max_size=longest).map("".join)


def ids_of(
    tokenizer: PreTrainedTokenizerFast, rows: list[tuple[str, ...]], most: int
) -> list[np.ndarray]:
    """What transformers makes of rows: ids, mask and type ids of one padded batch."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    found = tokenizer(
        *columns,
        truncation="longest_first",
        max_length=most,
        padding="longest",
        return_token_type_ids=True,
    )
    return [np.array(found[name]) for name in ("input_ids", "attention_mask", "token_type_ids")]
