"""Further training rows: which words are replaced, by what, how often, and that it can resume."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from tests.conftest import FILLERS, WORDS, make_teacher, sentences
from toolchain.artifact import Artifact, drafting
from toolchain.data.sources import Split, TaskData
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.progress import Null
from toolchain.recipe import Augment
from toolchain.steps.augment import augment, with_augmented

KNOWN = {*FILLERS, *(word for group in WORDS.values() for word in group)}


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with a masked-language head; it knows the words of the task and letters."""
    folder = make_teacher(tmp_path_factory.mktemp("speller"), head=False)
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random RoBERTa whose vocabulary marks where words begin."""
    folder = tmp_path_factory.mktemp("marker")
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces += [f"\u0120{word}" for word in sorted(KNOWN)] + sorted("abcdefghijklmnopqrstuvwxyz.,")
    pieces += ["\u0120", "\u0120."]
    raw = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", sep_token="</s>", cls_token="<s>",
        unk_token="<unk>", pad_token="<pad>", mask_token="<mask>", model_max_length=32,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(1)
    config = RobertaConfig(
        vocab_size=len(pieces), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=40, pad_token_id=1, initializer_range=0.5,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(folder)
    return folder


def task_of(texts: list[str], texts_b: list[str] | None = None) -> TaskData:
    pair = None if texts_b is None else tuple(texts_b)
    train = Split(tuple(texts), pair, tuple(i % 3 for i in range(len(texts))), "task/train.tsv")
    return TaskData(
        name="task", kind="single" if pair is None else "pair", labels=("a", "b", "c"), named=True,
        train=train, dev=train, test=None, digest="", files=(), notes=(),
    )  # fmt: skip


class Killed(Exception):
    pass


class Watch(Null):
    def __init__(self, stop_at: int = 0) -> None:
        self.stop_at, self.done, self.said = stop_at, list[int](), list[str]()

    def advance(self, task: str, done: int, total: int, **figures: object) -> None:  # noqa: ARG002
        self.done.append(done)
        if done == self.stop_at:
            raise Killed

    def say(self, text: str) -> None:
        self.said.append(text)


def write(
    folder: Path, model: Path, task: TaskData, progress: Null | None = None, **settings: object
) -> Artifact:
    with drafting(folder, {}) as draft:
        augment(
            draft,
            model=model,
            task=task,
            settings=Augment(**{"copies": 2, **settings}),  # type: ignore[arg-type]
            max_tokens=32,
            threads=1,
            seed=3,
            work=folder.with_name(f"{folder.name}-work"),
            progress=progress or Null(),
        )
    return Artifact.open(folder)


def neighbours(folder: Path, words: list[str], place: int, count: int) -> list[str]:
    """What the model finds likeliest in a word's place, worked out one word at a time."""
    tokenizer, model = load_tokenizer(folder), load_model(folder, "mask_lm")
    ids = tokenizer(" ".join(words), return_tensors="pt")
    # Every word here is one token, behind the one that frames the row.
    where = place + 1
    ids["input_ids"][0, where] = tokenizer.mask_token_id
    with torch.no_grad():
        logits = model(**ids).logits[0, where]
    found = []
    for i in logits.argsort(descending=True).tolist():
        token = tokenizer.convert_ids_to_tokens(i)
        text = token.removeprefix("\u0120")
        whole = token.startswith("\u0120") if "roberta" in model.config.model_type \
            else not token.startswith(("##", "["))  # fmt: skip
        if whole and text.isalpha() and text != words[place]:
            found.append(text)
    return found[:count]


def test_every_word_gives_way_to_one_of_its_neighbours_where_p_is_one(
    speller: Path, tmp_path: Path
) -> None:
    texts = ["the quick film was great", "a bad plot"]
    texts = [" ".join(w if w in KNOWN else sorted(KNOWN)[len(w)] for w in t.split()) for t in texts]
    found = with_augmented(task_of(texts), write(tmp_path / "a", speller, task_of(texts), p=1.0,
                                                 copies=40, candidates=4))  # fmt: skip
    assert found.train.texts[:2] == tuple(texts)
    for row, text in enumerate(texts):
        words = text.split()
        copies = [copy.split() for copy in found.train.texts[2 + 40 * row : 42 + 40 * row]]
        for place in range(len(words)):
            expected = neighbours(speller, words, place, 4)
            # Forty draws of four: each comes up.
            assert {copy[place] for copy in copies} == set(expected)


def test_a_vocabulary_that_marks_beginnings_gives_whole_words_too(
    marker: Path, tmp_path: Path
) -> None:
    words = sorted(KNOWN)[:4]
    text = f"{words[0]} {words[1]} zz {words[2]} ."
    made = with_augmented(
        task_of([text]), write(tmp_path / "a", marker, task_of([text]), p=1.0, copies=30,
                               candidates=3)
    )  # fmt: skip
    for copy in made.train.texts[1:]:
        parts = copy.split(" ")
        assert len(parts) == 5
        assert (parts[2], parts[4]) == ("zz", ".")
        assert parts[0] in neighbours(marker, text.split(), 0, 3)
        assert parts[3] in neighbours(marker, text.split(), 3, 3)


def test_about_p_of_the_words_are_replaced_and_the_facts_say_so(
    speller: Path, tmp_path: Path
) -> None:
    texts = [text for text, _ in sentences(60, seed=3)]
    watch = Watch()
    made = write(tmp_path / "a", speller, task_of(texts), watch, p=0.4, copies=5)
    found = with_augmented(task_of(texts), made)
    old = [text.split() for text in texts for _ in range(5)]
    new = [text.split() for text in found.train.texts[60:]]
    changed = sum(a != b for x, y in zip(old, new, strict=True) for a, b in zip(x, y, strict=True))
    words = sum(map(len, old))
    assert made.facts["words"] == words
    assert made.facts["replaced"] == changed
    assert changed / words == pytest.approx(0.4, abs=0.04)
    assert made.facts["unchanged"] == sum(a == b for a, b in zip(old, new, strict=True))
    assert made.facts["rows"] == 300
    assert any("300 further rows" in line for line in watch.said)


def test_copies_have_their_rows_labels_and_dev_stays(speller: Path, tmp_path: Path) -> None:
    task = task_of([text for text, _ in sentences(7, seed=3)])
    found = with_augmented(task, write(tmp_path / "a", speller, task))
    assert len(found.train) == 21
    assert found.train.labels == (*task.train.labels, *(n for n in task.train.labels for _ in "ab"))
    assert found.dev is task.dev


def test_what_is_not_one_whole_word_of_letters_stays(speller: Path, tmp_path: Path) -> None:
    word = sorted(KNOWN)[0]
    # Two pieces, a number, punctuation, blanks of several kinds.
    text = f"  {word},  zzq 12 {word}!\t{word}."
    made = with_augmented(
        task_of([text]), write(tmp_path / "a", speller, task_of([text]), p=1.0, copies=5)
    )
    for copy in made.train.texts[1:]:
        assert copy != text
        assert re.fullmatch(r"  [a-z]+,  zzq 12 [a-z]+!\t[a-z]+\.", copy)
        assert word not in re.findall("[a-z]+", copy)


def test_both_texts_of_a_pair_change(speller: Path, tmp_path: Path) -> None:
    words = sorted(KNOWN)
    first, second = f"{words[0]} {words[1]}", f"{words[2]} x9 {words[3]}"
    task = task_of([first], [second])
    found = with_augmented(task, write(tmp_path / "a", speller, task, p=1.0))
    assert found.train.texts_b is not None
    for a, b in zip(found.train.texts[1:], found.train.texts_b[1:], strict=True):
        assert not {words[0], words[1]} & set(a.split())
        assert re.fullmatch(r"[a-z]+ x9 [a-z]+", b)
        assert not {words[2], words[3]} & set(b.split())


def test_a_killed_run_goes_on_and_ends_alike(speller: Path, tmp_path: Path) -> None:
    task = task_of([text for text, _ in sentences(150, seed=5)])
    whole = write(tmp_path / "whole", speller, task)
    with pytest.raises(Killed):
        write(tmp_path / "cut", speller, task, Watch(stop_at=128))
    shards = sorted((tmp_path / "cut-work").iterdir())
    assert len(shards) == 2
    # What is finished is read, not made again.
    made = json.loads(shards[0].read_text())
    changed = {
        **made,
        "lines": [made["lines"][0].replace('"row": 0', '"row": 1'), *made["lines"][1:]],
    }
    shards[0].write_text(json.dumps(changed))
    cut = write(tmp_path / "cut", speller, task)
    lines = [a.path("train.jsonl").read_text().splitlines() for a in (whole, cut)]
    assert lines[0][1:] == lines[1][1:]
    assert lines[0][0] != lines[1][0]
    assert whole.facts == cut.facts


def test_a_row_has_the_same_copies_whatever_stands_before_it(speller: Path, tmp_path: Path) -> None:
    texts = [text for text, _ in sentences(70, seed=5)]
    both = [
        with_augmented(task_of(t), write(tmp_path / n, speller, task_of(t))).train.texts[len(t) :]
        for n, t in (("a", texts), ("b", [*texts[:-1], texts[0]]))
    ]
    assert both[0][:-2] == both[1][:-2]


def test_words_beyond_the_limit_stay(speller: Path, tmp_path: Path) -> None:
    word = sorted(KNOWN)[0]
    text = " ".join([word] * 60)
    task = task_of([text])
    found = with_augmented(task, write(tmp_path / "a", speller, task, p=1.0, copies=1))
    copy = found.train.texts[1].split()
    # 32 tokens with the two that frame the row.
    assert word not in copy[:30]
    assert copy[30:] == [word] * 30


def test_an_empty_row_is_copied_as_it_is(speller: Path, tmp_path: Path) -> None:
    task = task_of(["12 34"])
    made = write(tmp_path / "a", speller, task)
    assert with_augmented(task, made).train.texts == ("12 34",) * 3
    assert made.facts["unchanged"] == 2
    assert replace(task.train, texts=("12 34",)) == task.train
