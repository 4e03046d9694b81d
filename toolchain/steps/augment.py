"""The step that writes further training rows: words give way to what a masked model would say.

TinyBERT's augmentation (Jiao et al. 2020, arXiv 1909.10351, algorithm 1). Finished shards are kept
in the work folder, so a killed step goes on where it stopped; what is written depends on the model,
the rows, the settings and the seed alone.

Shape letters: B masked sentences, N tokens, V vocabulary, W words of a row.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from toolchain.artifact import Artifact, Draft, write_atomic
from toolchain.data.sources import Split, TaskData
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.progress import Progress
from toolchain.recipe import Augment

__all__ = ["ROWS", "Word", "augment", "with_augmented"]

ROWS = "train.jsonl"
_SHARD = 64
# Logits over a vocabulary that are alive together, in values: 2^25 of fp32 are 128 MiB.
_LOGITS = 1 << 25
# What begins a word in vocabularies that mark beginnings; others mark what goes on, with "##".
_MARKS = ("\u0120", "\u2581")


@dataclass(frozen=True)
class Word:
    """A word that may be replaced: which text it is in, from where to where, by what."""

    side: int
    start: int
    end: int
    neighbours: tuple[str, ...]


@dataclass(frozen=True)
class _Spot:
    """A row's ids with one word hidden, and where."""

    word: Word
    text: str
    ids: tuple[int, ...]
    types: tuple[int, ...]
    position: int


@dataclass(frozen=True)
class _Shard:
    """Finished copies as lines of JSON, and what was done to make them."""

    lines: list[str]
    words: int
    replaced: int
    unchanged: int


class _Thesaurus:
    """A masked language model that is asked for the neighbours of words."""

    def __init__(self, folder: Path, candidates: int, max_tokens: int) -> None:
        self._tokenizer: PreTrainedTokenizerFast = load_tokenizer(folder)
        model: PreTrainedModel = load_model(folder, "mask_lm")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.to(device)  # type: ignore[arg-type]
        self._device = torch.device(device)
        self._candidates, self._max_tokens = candidates, max_tokens
        self._words = _whole_words(self._tokenizer, int(model.config.vocab_size))
        allowed_V = torch.tensor([bool(word) for word in self._words])
        self._refused_V = ~allowed_V.to(device)

    def words(self, text: str, text_b: str | None) -> list[Word]:
        """Return the words of a row that are one token, each with its neighbours, in order."""
        spots = self._spots(text, text_b)
        longest = max((len(spot.ids) for spot in spots), default=1)
        size = max(1, min(64, _LOGITS // (longest * len(self._words))))
        found: list[Word] = []
        for start in range(0, len(spots), size):
            part = spots[start : start + size]
            for spot, logits_V in zip(part, self._said(part), strict=True):
                found.append(replace(spot.word, neighbours=self._nearest(spot.text, logits_V)))
        return [word for word in found if word.neighbours]

    def _nearest(self, text: str, logits_V: Tensor) -> tuple[str, ...]:
        # One more than asked for: the word itself may be among them, in one spelling or more.
        order = logits_V.topk(min(len(logits_V), self._candidates + 4)).indices.tolist()
        named = dict.fromkeys(self._words[i] for i in order if self._words[i])
        others = [word for word in named if word.casefold() != text.casefold()]
        return tuple(others[: self._candidates])

    def _said(self, spots: Sequence[_Spot]) -> Tensor:
        """Return the logits at the hidden words, (B, V), -inf for what is no whole word."""
        ids_BN = torch.tensor([spot.ids for spot in spots], device=self._device)
        inputs = {"input_ids": ids_BN, "attention_mask": torch.ones_like(ids_BN)}
        if "token_type_ids" in self._tokenizer.model_input_names:
            types = [spot.types for spot in spots]
            inputs["token_type_ids"] = torch.tensor(types, device=self._device)
        positions_B = torch.tensor([spot.position for spot in spots], device=self._device)
        with torch.inference_mode():
            logits_BNV = self._model(**inputs).logits
        rows_B = torch.arange(len(spots), device=self._device)
        logits_BV = logits_BNV[rows_B, positions_B].float()
        whole_BV: Tensor = logits_BV.masked_fill(self._refused_V, float("-inf")).cpu()
        return whole_BV

    def _spots(self, text: str, text_b: str | None) -> list[_Spot]:
        encoded = self._tokenizer(
            text, text_b, truncation="longest_first", max_length=self._max_tokens, verbose=False
        )
        ids = [int(i) for i in encoded["input_ids"]]
        types = tuple(int(i) for i in encoded.get("token_type_ids") or [0] * len(ids))
        mask_id, special = int(self._tokenizer.mask_token_id), self._tokenizer.all_special_ids
        encoding = (encoded.encodings or [])[0]
        places: dict[tuple[int, int], list[int]] = {}
        for position, (side, number) in enumerate(
            zip(encoding.sequence_ids, encoding.word_ids, strict=True)
        ):
            if side is not None and number is not None:
                places.setdefault((side, number), []).append(position)
        spots = []
        for (side, _), positions in places.items():
            if len(positions) > 1 or ids[positions[0]] in special:
                continue
            start, end = encoding.offsets[positions[0]]
            whole = (text, text_b or "")[side][start:end]
            start += len(whole) - len(whole.lstrip())
            if whole.strip().isalpha():
                hidden = (*ids[: positions[0]], mask_id, *ids[positions[0] + 1 :])
                word = Word(side, start, end, ())
                spots.append(_Spot(word, whole.strip(), hidden, types, positions[0]))
        return spots


def augment(
    draft: Draft,
    *,
    model: Path,
    task: TaskData,
    settings: Augment,
    max_tokens: int,
    threads: int,
    seed: int,
    work: Path,
    progress: Progress,
) -> None:
    """Write `settings.copies` copies of each training row to the draft, one JSON object per line.

    `row` is the number of the row whose label a copy has. The draft's facts count rows, words,
    words that were replaced, and copies in which none was.
    """
    torch.set_num_threads(threads)
    thesaurus = _Thesaurus(model, settings.candidates, max_tokens)
    work.mkdir(parents=True, exist_ok=True)
    shards: list[_Shard] = []
    for number in range(math.ceil(len(task.train) / _SHARD)):
        chosen = range(number * _SHARD, min(len(task.train), (number + 1) * _SHARD))
        path = work / f"shard-{number:05}.json"
        shards.append(_shard(path, thesaurus, task, chosen, settings, seed))
        progress.advance("augment", chosen[-1] + 1, len(task.train))
    lines = [line for shard in shards for line in shard.lines]
    write_atomic(draft.folder / ROWS, "".join(f"{line}\n" for line in lines))
    words, replaced, unchanged = (
        sum(getattr(shard, name) for shard in shards) for name in ("words", "replaced", "unchanged")
    )
    draft.facts.update(
        rows=len(lines),
        copies=settings.copies,
        p=settings.p,
        words=words,
        replaced=replaced,
        unchanged=unchanged,
    )
    progress.say(
        f"augment: {len(lines)} further rows; {replaced} of the {words} words that are one token "
        f"are replaced, {unchanged} rows are as they were"
    )


def _shard(
    path: Path,
    thesaurus: _Thesaurus,
    task: TaskData,
    chosen: range,
    settings: Augment,
    seed: int,
) -> _Shard:
    """Return the copies of some rows, read where they are finished, else made and written."""
    if path.is_file():
        return _Shard(**json.loads(path.read_text(encoding="utf-8")))
    lines: list[str] = []
    words = replaced = unchanged = 0
    for row in chosen:
        text = task.train.texts[row]
        text_b = task.train.texts_b[row] if task.train.texts_b else None
        known = thesaurus.words(text, text_b)
        random = np.random.default_rng([seed, row])
        for _ in range(settings.copies):
            picked = [w for w in known if random.random() < settings.p]
            spoken = [w.neighbours[int(random.integers(len(w.neighbours)))] for w in picked]
            new = _written((text, text_b), picked, spoken)
            lines.append(json.dumps({"row": row, "text": new[0], "text_b": new[1]}))
            words, replaced = words + len(known), replaced + len(picked)
            unchanged += not picked
    made = _Shard(lines, words, replaced, unchanged)
    write_atomic(path, json.dumps(asdict(made)))
    return made


def _written(
    texts: tuple[str, str | None], words: Sequence[Word], spoken: Sequence[str]
) -> tuple[str, str | None]:
    """Return the texts with words replaced."""
    sides = [texts[0], texts[1] or ""]
    # From the end: what stands before a word keeps its place.
    for word, said in sorted(zip(words, spoken, strict=True), key=lambda pair: -pair[0].start):
        old = sides[word.side]
        sides[word.side] = old[: word.start] + said + old[word.end :]
    return sides[0], None if texts[1] is None else sides[1]


def with_augmented(task: TaskData, artifact: Artifact) -> TaskData:
    """Return the task with the copies behind its training rows; dev and test stay as they are."""
    train = task.train
    rows = [json.loads(line) for line in artifact.path(ROWS).read_text("utf-8").splitlines()]
    texts_b = train.texts_b
    if texts_b is not None:
        texts_b = (*texts_b, *(str(row["text_b"]) for row in rows))
    more: Split = replace(
        train,
        texts=(*train.texts, *(str(row["text"]) for row in rows)),
        texts_b=texts_b,
        labels=(*train.labels, *(train.labels[int(row["row"])] for row in rows)),
    )
    return replace(task, train=more)


def _whole_words(tokenizer: PreTrainedTokenizerFast, vocab: int) -> list[str]:
    """Return each token's text where it is a whole word of letters, else "", by id."""
    count = min(vocab, len(tokenizer))
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(list(range(count)))]
    marked = any(token.startswith(_MARKS) for token in tokens)
    special = set(tokenizer.all_special_ids)
    words = []
    for i, token in enumerate(tokens):
        begins = token.startswith(_MARKS) if marked else not token.startswith("##")
        text = str(tokenizer.decode([i])).strip() if begins and i not in special else ""
        words.append(text if text.isalpha() else "")
    return words + [""] * (vocab - count)
