"""Text to token ids with the labels of each task, once per run.

Shape letters: R rows, N tokens, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import BatchEncoding, PreTrainedTokenizerFast

from toolchain.data.masking import IGNORED, Masking
from toolchain.data.sources import Label, Split, TaskData
from toolchain.data.windows import Asked, windows
from toolchain.errors import UsageError
from toolchain.recipe import DataTask

__all__ = ["Rows", "TokenLabels", "pack", "tokenize", "tokenize_raw", "tokenize_split"]

Ids = NDArray[np.int64]
TokenLabels = tuple[Ids, ...]
"""One array per row with a label per token, IGNORED where there is none."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Tokenised rows: one mapping of 1-D arrays per row, labels, rows cut to the limit.

    `labels` are (R,) class ids or (R,) float32 scores, (R, C) float32 of 0 and 1, or for tagging
    and causal language models one (N,) array per row; those of a masked language model are made
    with each batch by `masking`. `names` are the tags by id. Texts to be embedded have zeros;
    `similar` is what embeddings are judged by: (R / 2,) scores of pairs, rows i and R / 2 + i, or
    the vectors (R, D) that another model gives. Rows of questions are windows, `labels` (R, 2) the
    tokens where an answer begins and ends; `asked` says which question a window is of.
    """

    features: Sequence[Mapping[str, Ids]]
    labels: NDArray[np.int64] | NDArray[np.float32] | TokenLabels
    pad_id: int
    truncated: int
    task: DataTask = "classify"
    masking: Masking | None = None
    names: tuple[str, ...] = ()
    similar: NDArray[np.float32] | None = None
    asked: Asked | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.features)

    @property
    def lengths(self) -> Ids:
        """Tokens per row, (R,)."""
        return np.array([len(row["input_ids"]) for row in self.features], dtype=np.int64)


def tokenize_split(
    tokenizer: PreTrainedTokenizerFast,
    split: Split,
    task: TaskData,
    *,
    max_tokens: int,
    seed: int = 0,
    packed: bool = True,
) -> Rows:
    """Tokenise one split of a task with the labels its loss needs.

    `seed` decides which tokens a masked language model hides. With `packed`, the text of a language
    model is cut into full blocks; prompts with answers, and pairs of texts, stay one per row.
    """
    if task.task == "tag":
        return _tagged(tokenizer, split, (*task.labels, *task.unseen), max_tokens=max_tokens)
    if task.task == "qa":
        return _asked(tokenizer, split, max_tokens=max_tokens, unanswered=task.unanswered)
    if task.task == "embed":
        return _embedded(tokenizer, split, max_tokens=max_tokens)
    if task.task == "causal_lm" and split.texts_b is not None:
        return _prompted(tokenizer, split.texts, split.texts_b, max_tokens=max_tokens)
    if task.task in ("causal_lm", "mask_lm"):
        return tokenize_raw(
            tokenizer,
            split.texts,
            task=task.task,
            max_tokens=max_tokens,
            seed=seed,
            packed=packed and split.texts_b is None,
            texts_b=split.texts_b,
        )
    return tokenize(
        tokenizer, split.texts, split.texts_b, split.labels, max_tokens=max_tokens, task=task.task
    )


def tokenize(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    texts_b: Sequence[str] | None,
    labels: Sequence[Label],
    *,
    max_tokens: int,
    task: DataTask = "classify",
) -> Rows:
    """Tokenise single texts or pairs; longer rows lose their end (of the longer text)."""
    features, cut = _encoded(tokenizer, texts, texts_b, max_tokens)
    coded: NDArray[np.int64] | NDArray[np.float32]
    if task == "classify":
        coded = np.asarray(labels, dtype=np.int64)
    else:
        coded = np.asarray(labels, dtype=np.float32)
    return Rows(
        features=features,
        labels=coded,
        pad_id=_pad_id(tokenizer),
        truncated=cut,
        task=task,
    )


def tokenize_raw(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    *,
    task: DataTask,
    max_tokens: int,
    seed: int = 0,
    packed: bool = False,
    texts_b: Sequence[str] | None = None,
) -> Rows:
    """Tokenise unlabelled text for a language model, one text per row or packed into full blocks.

    Full blocks waste no padding, teach long contexts, and are what BERT and GPT were trained on;
    a block may hold parts of several texts, which see each other. Rows of any other task than a
    language model have no labels: zeros, for stages that read none.
    """
    cut = 0
    if packed:
        features = pack(tokenizer, texts, task=task, max_tokens=max_tokens)
    elif task == "causal_lm":
        features, cut = _ended(tokenizer, texts, max_tokens)
    else:
        features, cut = _encoded(tokenizer, texts, texts_b, max_tokens)
    ids = [row["input_ids"] for row in features]
    return Rows(
        features=features,
        labels=tuple(map(_shifted, ids))
        if task == "causal_lm"
        else np.zeros(len(features), dtype=np.int64),
        pad_id=_pad_id(tokenizer),
        truncated=cut,
        task=task,
        masking=Masking.of(tokenizer, seed=seed) if task == "mask_lm" else None,
    )


def pack(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, task: DataTask, max_tokens: int
) -> list[Mapping[str, Ids]]:
    """Cut all texts, in order, into rows of exactly `max_tokens` tokens; the last may be shorter.

    A decoder's texts each begin with its begin token and end with its end token, where it has
    such. An encoder's have a separator between them, and every row is framed as one sequence.
    """
    before, after = _ends(tokenizer) if task == "causal_lm" else _frame(tokenizer)
    stream: list[int] = []
    for ids in _bare(tokenizer, texts):
        stream += [*before, *ids, *after] if task == "causal_lm" else [*ids, *after]
    frame = ([], []) if task == "causal_lm" else (before, after)
    size = max_tokens - len(frame[0]) - len(frame[1])
    if size < 1:
        raise UsageError(f"data.max_tokens is {max_tokens}, too few for a block of text")
    starts = range(0, len(stream), size)
    rows = [[*frame[0], *stream[i : i + size], *frame[1]] for i in starts]
    # One token alone predicts nothing.
    kept = [row for row in rows if len(row) > len(frame[0]) + len(frame[1]) + 1] or rows
    return [_feature(tokenizer, np.asarray(row, dtype=np.int64), task) for row in kept]


def _ended(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], max_tokens: int
) -> tuple[list[Mapping[str, Ids]], int]:
    before, after = _ends(tokenizer)
    features, cut = [], 0
    for ids in _bare(tokenizer, texts):
        row = [*before, *ids, *after]
        cut += len(row) > max_tokens
        array = np.asarray(row[:max_tokens], dtype=np.int64)
        features.append(_feature(tokenizer, array, "causal_lm"))
    return features, cut


def _prompted(
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    max_tokens: int,
) -> Rows:
    """Tokenise prompt, line feed, answer, end; only the answer and its end are supervised.

    A row that is too long loses the beginning of its prompt, down to half of the row; what is then
    left over the limit is cut from the answer.
    """
    before, after = _ends(tokenizer)
    features, labels, cut = [], [], 0
    asked = _bare(tokenizer, [f"{prompt}\n" for prompt in prompts])
    for prompt, answer in zip(asked, _bare(tokenizer, answers), strict=True):
        said = [*answer, *after]
        room = max_tokens - len(before)
        kept = max(room - len(said), min(len(prompt), room // 2))
        cut += len(prompt) > kept or len(said) > room - min(kept, len(prompt))
        question = [*before, *(prompt[-kept:] if kept else [])]
        ids = np.asarray([*question, *said][:max_tokens], dtype=np.int64)
        target = _shifted(ids)
        target[: len(question) - 1] = IGNORED
        features.append(_feature(tokenizer, ids, "causal_lm"))
        labels.append(target)
    return Rows(
        features=features,
        labels=tuple(labels),
        pad_id=_pad_id(tokenizer),
        truncated=cut,
        task="causal_lm",
    )


def _tagged(
    tokenizer: PreTrainedTokenizerFast,
    split: Split,
    names: tuple[str, ...],
    *,
    max_tokens: int,
) -> Rows:
    """Tokenise words one by one; the first piece of each word carries its tag.

    Words beyond the limit, and words of which the tokenizer makes no piece, have no position and
    are not judged; `truncated` counts the rows that have such.
    """
    assert split.words is not None, "a tagging task has words"
    _check_words(tokenizer)
    encoded = tokenizer(
        [list(words) for words in split.words],
        is_split_into_words=True,
        padding=False,
        truncation=True,
        max_length=max_tokens,
        verbose=False,
    )
    features = _features(encoded)
    labels, cut = [], 0
    for i, tags in enumerate(split.labels):
        assert isinstance(tags, tuple)
        target = np.full(len(features[i]["input_ids"]), IGNORED, dtype=np.int64)
        seen: set[int] = set()
        for position, word in enumerate(encoded.word_ids(i)):
            if word is not None and word not in seen:
                seen.add(word)
                target[position] = tags[word]
        cut += len(seen) < len(tags)
        labels.append(target)
    return Rows(
        features=features,
        labels=tuple(labels),
        pad_id=_pad_id(tokenizer),
        truncated=cut,
        task="tag",
        names=names,
    )


def _asked(
    tokenizer: PreTrainedTokenizerFast, split: Split, *, max_tokens: int, unanswered: bool
) -> Rows:
    """Tokenise questions with their contexts, a long one in several windows."""
    assert split.texts_b is not None, "a question is about a text"
    assert split.answers is not None, "questions have answers, be they none"
    made = windows(
        tokenizer,
        split.texts,
        split.texts_b,
        split.answers,
        max_tokens=max_tokens,
        unanswered=unanswered,
    )
    return Rows(
        features=made.features,
        labels=made.ends,
        pad_id=_pad_id(tokenizer),
        truncated=made.cut,
        task="qa",
        asked=made.asked,
    )


def _embedded(tokenizer: PreTrainedTokenizerFast, split: Split, *, max_tokens: int) -> Rows:
    """Tokenise texts that have no labels of their own; longer ones lose their end."""
    features, cut = _encoded(tokenizer, split.texts, None, max_tokens)
    return Rows(
        features=features,
        labels=np.zeros(len(features), dtype=np.int64),
        pad_id=_pad_id(tokenizer),
        truncated=cut,
        task="embed",
        similar=np.asarray(split.labels, dtype=np.float32) if split.labels else None,
    )


def _check_words(tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse a tokenizer that reads words apart unlike the same words with blanks between them."""
    try:
        apart = tokenizer(["one", "two"], is_split_into_words=True)["input_ids"]
    except AssertionError:
        # transformers 4 asks GPT-2's kind for the prefix space this way; 5 leaves it out silently.
        apart = []
    if list(apart) != list(tokenizer("one two")["input_ids"]):
        raise UsageError(
            "the tokenizer reads separate words unlike a text, so tags cannot be placed on them",
            "set add_prefix_space to true in its tokenizer_config.json",
        )


def _encoded(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    texts_b: Sequence[str] | None,
    max_tokens: int,
) -> tuple[list[Mapping[str, Ids]], int]:
    """Return the features of texts or pairs, and how many lost their end."""
    encoded = tokenizer(
        list(texts),
        list(texts_b) if texts_b is not None else None,
        add_special_tokens=True,
        padding=False,
        truncation="longest_first",
        max_length=max_tokens,
        return_attention_mask=True,
        verbose=False,
    )
    cut = sum(1 for encoding in encoded.encodings or () if encoding.overflowing)
    return _features(encoded), cut


def _features(encoded: BatchEncoding) -> list[Mapping[str, Ids]]:
    names = list(encoded.keys())
    columns = [encoded[name] for name in names]
    return [
        {name: np.asarray(values, dtype=np.int64) for name, values in zip(names, row, strict=True)}
        for row in zip(*columns, strict=True)
    ]


def _bare(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield the ids of each text without special tokens."""
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    for ids in encoded["input_ids"]:
        yield list(ids)


def _ends(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Return what stands before and after a text of a decoder: begin and end token, if it has."""
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    # GPT-2 calls its one special token both, and was trained with it at the end alone.
    first = [int(begin)] if isinstance(begin, int) and begin != end else []
    return first, [int(end)] if isinstance(end, int) else []


def _frame(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Return what stands before and after a sequence of an encoder."""
    framed = tokenizer("", add_special_tokens=True, verbose=False)["input_ids"]
    half = (len(framed) + 1) // 2
    return list(framed[:half]), list(framed[half:])


def _feature(tokenizer: PreTrainedTokenizerFast, ids: Ids, task: DataTask) -> Mapping[str, Ids]:
    feature = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if task != "causal_lm" and "token_type_ids" in tokenizer.model_input_names:
        feature["token_type_ids"] = np.zeros_like(ids)
    return feature


def _shifted(ids: Ids) -> Ids:
    """Return the next token of each position, IGNORED at the last."""
    return np.append(ids[1:], IGNORED)


def _pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    return int(tokenizer.pad_token_id or 0)
