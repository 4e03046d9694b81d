"""Token ids and labels of every task, with real tokenizers made on the spot."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from toolchain.data.batching import collate
from toolchain.data.masking import IGNORED
from toolchain.data.sources import Label, Split, TaskData, load_task
from toolchain.data.tokenizing import pack, tokenize, tokenize_raw, tokenize_split
from toolchain.errors import UsageError
from toolchain.recipe import Columns, DataTask

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "new", "##s", "york"]
PAD, CLS, SEP, MASK = 0, 2, 3, 4


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    path = tmp_path_factory.mktemp("encoder") / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return BertTokenizerFast(str(path))


@pytest.fixture(scope="module")
def decoder() -> PreTrainedTokenizerFast:
    """A tokenizer of single characters with a begin and an end token."""
    ids = {t: i for i, t in enumerate(["<pad>", "<s>", "</s>", *"abcdefgh? \n"])}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def task_of(
    task: DataTask,
    texts: list[str],
    *,
    texts_b: list[str] | None = None,
    labels: tuple[Label, ...] = (),
    names: tuple[str, ...] = (),
    words: tuple[tuple[str, ...], ...] | None = None,
) -> TaskData:
    split = Split(tuple(texts), None if texts_b is None else tuple(texts_b), labels, "f", words)
    return TaskData(
        name="t", task=task, kind="single", labels=names, named=True, train=split, dev=split,
        test=None, digest="", files=(), notes=(),
    )  # fmt: skip


def decoded(tokenizer: PreTrainedTokenizerFast, ids: np.ndarray) -> str:
    return tokenizer.decode(ids[ids != IGNORED].tolist())


@pytest.mark.parametrize(
    ("task", "labels", "dtype", "shape"),
    [
        ("classify", (1, 0), np.int64, (2,)),
        ("multi_label", ((1, 0, 1), (0, 0, 0)), np.float32, (2, 3)),
        ("regress", (2.5, -1.0), np.float32, (2,)),
    ],
)
def test_labels_of_sentences_have_the_form_their_loss_reads(
    encoder: PreTrainedTokenizerFast,
    task: DataTask,
    labels: tuple[Label, ...],
    dtype: type,
    shape: tuple[int, ...],
) -> None:
    data = task_of(task, ["a b", "c"], labels=labels)
    rows = tokenize_split(encoder, data.train, data, max_tokens=16)
    assert isinstance(rows.labels, np.ndarray)
    assert (rows.labels.dtype, rows.labels.shape, rows.task) == (dtype, shape, task)
    batch = collate(rows, [1, 0])
    assert batch.labels.numpy().tolist() == [list(np.array(labels).tolist())[i] for i in (1, 0)]
    assert batch.inputs["input_ids"].tolist() == [[CLS, 7, SEP, PAD], [CLS, 5, 6, SEP]]
    assert batch.mask_BN.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_the_first_piece_of_a_word_carries_its_tag(encoder: PreTrainedTokenizerFast) -> None:
    data = task_of(
        "tag",
        ["news york a", "b"],
        labels=((1, 2, 0), (0,)),
        names=("O", "B-x", "I-x"),
        words=(("news", "york", "a"), ("b",)),
    )
    rows = tokenize_split(encoder, data.train, data, max_tokens=16)
    batch = collate(rows, [0, 1])
    assert batch.inputs["input_ids"][0].tolist() == [CLS, 9, 10, 11, 5, SEP]
    x = IGNORED
    assert batch.labels.tolist() == [[x, 1, x, 2, 0, x], [x, 0, x, x, x, x]]
    assert (rows.names, rows.truncated) == (("O", "B-x", "I-x"), 0)


def test_words_beyond_the_limit_and_words_of_nothing_are_counted(
    encoder: PreTrainedTokenizerFast,
) -> None:
    data = task_of(
        "tag",
        ["x", "y", "z"],
        labels=((1, 2, 0), (1, 0), (1,)),
        names=("O", "B-x", "I-x"),
        words=(("a", "b", "c"), ("\u200b", "a"), ("a",)),
    )
    rows = tokenize_split(encoder, data.train, data, max_tokens=4)
    assert [[int(i) for i in labels if i != IGNORED] for labels in rows.labels] == [
        [1, 2],
        [0],
        [1],
    ]
    assert rows.truncated == 2


@pytest.mark.parametrize("prefix", [False, True])
def test_words_are_read_as_in_a_text_or_refused(prefix: bool) -> None:
    from transformers import GPT2TokenizerFast

    ids = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(ids, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer = GPT2TokenizerFast(tokenizer_object=backend, add_prefix_space=prefix)
    data = task_of("tag", ["a b"], labels=((1, 0),), names=("O", "B-x"), words=(("a", "b"),))
    if prefix:
        rows = tokenize_split(tokenizer, data.train, data, max_tokens=8)
        # A blank and a letter each: the blank is the first piece.
        assert rows.labels[0].tolist() == [1, IGNORED, 0, IGNORED]
    else:
        with pytest.raises(UsageError, match="reads separate words unlike a text"):
            tokenize_split(tokenizer, data.train, data, max_tokens=8)


def test_a_causal_label_is_the_next_token(decoder: PreTrainedTokenizerFast) -> None:
    rows = tokenize_raw(decoder, ["abc", "d"], task="causal_lm", max_tokens=8)
    batch = collate(rows, [0, 1])
    ids = batch.inputs["input_ids"]
    assert decoder.convert_ids_to_tokens(ids[0]) == ["<s>", "a", "b", "c", "</s>"]
    assert batch.labels[0].tolist() == [*ids[0, 1:].tolist(), IGNORED]
    assert batch.labels[1].tolist() == [*ids[1, 1:3].tolist(), IGNORED, IGNORED, IGNORED]
    assert batch.mask_BN[1].tolist() == [1, 1, 1, 0, 0]
    cut = tokenize_raw(decoder, ["abcdefgh"], task="causal_lm", max_tokens=4)
    assert (decoded(decoder, cut.features[0]["input_ids"]), cut.truncated) == ("<s>abc", 1)


def test_only_the_answer_to_a_prompt_is_supervised(decoder: PreTrainedTokenizerFast) -> None:
    data = task_of("causal_lm", ["ab?", "c"], texts_b=["de", "fgh"])
    rows = tokenize_split(decoder, data.train, data, max_tokens=16)
    ids, labels = rows.features[0]["input_ids"], rows.labels[0]
    assert decoder.decode(ids) == "<s>ab?\nde</s>"
    assert isinstance(labels, np.ndarray)
    assert decoded(decoder, labels) == "de</s>"
    # The line feed, the last of the prompt, predicts the first of the answer.
    assert labels.tolist() == [*[IGNORED] * 4, *ids[5:].tolist(), IGNORED]
    assert rows.truncated == 0


@pytest.mark.parametrize(
    ("prompt", "answer", "limit", "kept", "said"),
    [
        ("abcdefgh", "ab", 8, "<s>fgh\nab</s>", "ab</s>"),
        ("abcdefgh", "abcdefgh", 9, "<s>fgh\nabcd", "abcd"),
        ("a", "abcdefgh", 8, "<s>a\nabcde", "abcde"),
    ],
)
def test_a_prompt_that_is_too_long_loses_its_beginning(
    decoder: PreTrainedTokenizerFast, prompt: str, answer: str, limit: int, kept: str, said: str
) -> None:
    data = task_of("causal_lm", [prompt], texts_b=[answer])
    rows = tokenize_split(decoder, data.train, data, max_tokens=limit)
    assert decoder.decode(rows.features[0]["input_ids"]) == kept
    assert decoded(decoder, rows.labels[0]) == said
    assert rows.truncated == 1


def test_packed_text_of_a_decoder_fills_every_block(decoder: PreTrainedTokenizerFast) -> None:
    texts = ["abc", "de", "f", "gh"]
    blocks = [row["input_ids"] for row in pack(decoder, texts, task="causal_lm", max_tokens=5)]
    assert [len(block) for block in blocks] == [5, 5, 5]
    # The sixteenth token alone would predict nothing.
    assert "".join(map(decoder.decode, blocks)) == "<s>abc</s><s>de</s><s>f</s><s>gh"


def test_packed_text_of_an_encoder_is_framed(encoder: PreTrainedTokenizerFast) -> None:
    blocks = pack(encoder, ["a b c", "d", "a"], task="mask_lm", max_tokens=6)
    assert [block["input_ids"].tolist() for block in blocks] == [
        [CLS, 5, 6, 7, SEP, SEP],
        [CLS, 8, SEP, 5, SEP, SEP],
    ]
    assert all(set(block) == {"input_ids", "attention_mask", "token_type_ids"} for block in blocks)
    with pytest.raises(UsageError, match="max_tokens is 2, too few"):
        pack(encoder, ["a"], task="mask_lm", max_tokens=2)


def test_text_is_packed_unless_one_text_a_row_is_asked_for(
    encoder: PreTrainedTokenizerFast,
) -> None:
    data = task_of("mask_lm", ["a b", "c d"])
    assert len(tokenize_split(encoder, data.train, data, max_tokens=16)) == 1
    single = tokenize_split(encoder, data.train, data, max_tokens=16, packed=False)
    assert [row["input_ids"].tolist() for row in single.features] == [
        [CLS, 5, 6, SEP],
        [CLS, 7, 8, SEP],
    ]
    pairs = task_of("mask_lm", ["a"], texts_b=["b"])
    (pair,) = tokenize_split(encoder, pairs.train, pairs, max_tokens=16).features
    assert pair["input_ids"].tolist() == [CLS, 5, SEP, 6, SEP]


def test_raw_text_of_a_stage_without_labels_is_one_row_per_line(
    encoder: PreTrainedTokenizerFast,
) -> None:
    rows = tokenize_raw(encoder, ["a b", "c"], task="classify", max_tokens=16)
    same = tokenize(encoder, ["a b", "c"], None, [0, 0], max_tokens=16)
    assert isinstance(rows.labels, np.ndarray)
    assert rows.labels.tolist() == [0, 0]
    for one, other in zip(rows.features, same.features, strict=True):
        assert {k: v.tolist() for k, v in one.items()} == {k: v.tolist() for k, v in other.items()}


def test_a_masked_row_shows_the_mask_where_it_is_to_be_predicted(
    encoder: PreTrainedTokenizerFast,
) -> None:
    data = task_of("mask_lm", ["a b c d " * 50, "a b"])
    rows = tokenize_split(encoder, data.train, data, max_tokens=256, packed=False, seed=3)
    original = collate(tokenize(encoder, data.train.texts, None, [0, 0], max_tokens=256), [0, 1])
    batch = collate(rows, [0, 1], step=5)
    wanted = batch.labels != IGNORED
    assert wanted.sum(1).tolist() == [30, 1]
    plain = original.inputs["input_ids"]
    assert (batch.labels[wanted] == plain[wanted]).all()
    assert (batch.inputs["input_ids"][~wanted] == plain[~wanted]).all()
    assert 15 <= (batch.inputs["input_ids"][0][wanted[0]] == MASK).sum() <= 30
    assert (original.mask_BN == batch.mask_BN).all()


def test_a_tokenizer_without_a_mask_token_is_refused(decoder: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UsageError, match="the tokenizer has no mask token"):
        tokenize_raw(decoder, ["a"], task="mask_lm", max_tokens=8)


@pytest.mark.shared
def test_real_tags_survive_real_word_pieces(shared: Path) -> None:
    from toolchain.metrics.spans import entities
    from toolchain.models.loading import load_tokenizer

    tokenizer = load_tokenizer(shared / "models" / "minilm-l6-sst2")
    task = load_task(str(shared / "data" / "wnut17"), columns=Columns(), teacher_labels=None)
    rows = tokenize_split(tokenizer, task.dev, task, max_tokens=512)
    kept = [[task.labels[i] for i in labels if i != IGNORED] for labels in rows.labels]
    # 836 as published; three sentences hold words of a variation selector alone, none of an entity.
    assert sum(len(entities(tags)) for tags in kept) == 836
    assert sum(map(len, kept)) == 15_729
    assert rows.truncated == 3
