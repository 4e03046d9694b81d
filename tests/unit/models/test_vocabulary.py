"""Fewer tokens: the choice, the map, the cut weights, and a tokenizer that needs no map."""

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from toolchain.errors import UsageError
from toolchain.export.tokenizer import save_tokenizer
from toolchain.export.vocabulary import save_compressed_tokenizer
from toolchain.models.compress import select_tokens, token_embeddings
from toolchain.models.loading import load_classifier, load_tokenizer, save_model
from toolchain.models.vocabulary import (
    Vocabulary,
    choose,
    compressed_tokenizer,
    frequencies,
    kept_count,
    unreachable,
)


def made(vocab: int, count: int, special: list[int], seed: int = 0) -> tuple[Vocabulary, dict]:
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 9, size=vocab)
    table = generator.normal(size=(vocab, 6)).astype(np.float32)
    known = {"counts": counts, "table": table}
    return choose(counts, table, count, special=special), known


@settings(deadline=None)
@given(st.integers(8, 40), st.integers(0, 100), st.data())
def test_special_ids_are_kept_and_every_dropped_id_has_the_nearest_ordinary_one(
    vocab: int, seed: int, data: st.DataObject
) -> None:
    special = data.draw(st.lists(st.integers(0, vocab - 1), max_size=5, unique=True))
    count = data.draw(st.integers(len(special) + 1, vocab))
    found, known = made(vocab, count, special, seed)
    kept, new = found.kept.tolist(), found.new_of_old
    assert kept == sorted(set(kept))
    assert len(found) == len(kept) == count
    assert set(special) <= set(kept)
    assert new[kept].tolist() == list(range(count))
    ordinary = [i for i in kept if i not in special]
    dropped = [i for i in range(vocab) if i not in kept]
    unit = known["table"] / np.linalg.norm(known["table"], axis=1, keepdims=True)
    for i in dropped:
        assert known["counts"][i] <= min(known["counts"][j] for j in ordinary)
        best = max(float(unit[i] @ unit[j]) for j in ordinary)
        stand_in = kept[new[i]]
        assert stand_in in ordinary
        assert float(unit[i] @ unit[stand_in]) == pytest.approx(best, abs=1e-6)


def test_the_cosine_decides_and_not_the_length_of_an_embedding() -> None:
    table = np.array([[1, 0], [0, 100], [3, 1], [5, 4.0]], dtype=np.float32)
    found = choose(np.array([9, 8, 0, 7]), table, 3, special=[])
    assert found.kept.tolist() == [0, 1, 3]
    assert found.new_of_old.tolist() == [0, 1, 0, 2]


def test_of_equally_frequent_ids_the_lower_is_kept() -> None:
    table = np.eye(4, dtype=np.float32)
    assert choose(np.zeros(4, dtype=np.int64), table, 2, special=[3]).kept.tolist() == [0, 3]


def test_ids_that_stand_for_no_text_go_first() -> None:
    tokens = {"[PAD]": 0, "[unused0]": 1, "[unused99]": 2, "[unused]": 3, "a": 4}
    last = unreachable(tokens, 7)
    assert last.tolist() == [1, 2, 5, 6]
    found = choose(
        np.zeros(7, dtype=np.int64), np.eye(7, dtype=np.float32), 3, special=[0], last=last
    )
    assert found.kept.tolist() == [0, 3, 4]
    counted = np.array([0, 2, 0, 0, 0, 0, 0])
    found = choose(counted, np.eye(7, dtype=np.float32), 3, special=[0], last=last)
    assert found.kept.tolist() == [0, 1, 3]


def test_a_choice_without_room_for_words_is_refused() -> None:
    with pytest.raises(UsageError, match=r"student\.vocab keeps 2 tokens, 2 of them are special"):
        made(9, 2, [0, 1])


@pytest.mark.parametrize(
    ("asked", "vocab", "count"), [(0.5, 30522, 15261), (1, 10, 10), (7.0, 10, 7), (0.26, 10, 3)]
)
def test_a_part_or_a_number_of_tokens_can_be_asked_for(
    asked: float, vocab: int, count: int
) -> None:
    assert kept_count(asked, vocab) == count


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (1.5, r"student\.vocab is 1\.5"),
        (11, "the teacher has 10 tokens"),
        (0.01, r"student\.vocab is 0\.01"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused(asked: float, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        kept_count(asked, 10)


def test_frequencies_count_every_token_of_every_row() -> None:
    rows = [np.array([1, 1, 4]), np.array([4]), np.array([], dtype=np.int64)]
    assert frequencies(rows, 6).tolist() == [0, 2, 0, 0, 2, 0]


def test_negative_labels_stay_what_they_are() -> None:
    found, _ = made(9, 5, [0])
    mapped = found.map(np.array([-100, int(found.kept[3])]))
    assert mapped.tolist() == [-100, 3]


def masked_lm() -> BertForMaskedLM:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30, hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16, pad_token_id=3, initializer_range=0.3,
    )  # fmt: skip
    model = BertForMaskedLM(config).eval()
    torch.nn.init.normal_(model.cls.predictions.bias)
    return model


def causal_lm(*, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30, hidden_size=12, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16, tie_word_embeddings=tied,
        bos_token_id=4, eos_token_id=[7, 5], pad_token_id=4,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("kind", ["masked", "tied", "untied"])
def test_the_cut_model_gives_the_kept_tokens_the_logits_they_had(kind: str) -> None:
    model = masked_lm() if kind == "masked" else causal_lm(tied=kind == "tied")
    vocabulary, _ = made(30, 17, [3, 4, 5, 7])
    small = select_tokens(model, vocabulary)
    new_ids = torch.randint(0, 17, (2, 7), generator=torch.Generator().manual_seed(1))
    old_ids = torch.from_numpy(vocabulary.kept)[new_ids]
    with torch.no_grad():
        expected = model(input_ids=old_ids).logits[..., torch.from_numpy(vocabulary.kept)]
        found = small(input_ids=new_ids).logits
    torch.testing.assert_close(found, expected)
    tables = 1 if kind == "tied" else 2
    bias = 13 if kind == "masked" else 0
    lost = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in small.parameters())
    assert lost == 13 * 12 * (1 if kind == "masked" else tables) + bias
    assert small.config.pad_token_id == vocabulary.new_of_old[model.config.pad_token_id]
    if kind != "masked":
        assert small.config.eos_token_id == vocabulary.new_of_old[[7, 5]].tolist()
    assert not small.training


def chosen_for(folder: Path, texts: list[str], part: float) -> Vocabulary:
    """What a run does: count, look at the teacher's embeddings, choose."""
    tokenizer, model = load_tokenizer(folder), load_classifier(folder)
    table = token_embeddings(model)
    rows = [np.asarray(ids) for ids in tokenizer(texts)["input_ids"]]
    counts = frequencies(rows, len(table))
    return choose(
        counts,
        table,
        kept_count(part, len(table)),
        special=tokenizer.all_special_ids,
        last=unreachable(tokenizer.get_vocab(), len(table)),
    )


TEXTS = ["please turn the lamp on", "a song for me", "cold oven in my room now", "xyz qed!"]


def test_the_written_tokenizer_gives_new_ids_and_survives_being_saved_with_a_model(
    teacher_folder: Path, tmp_path: Path
) -> None:
    vocabulary = chosen_for(teacher_folder, TEXTS, 0.5)
    student = tmp_path / "student"
    save_model(select_tokens(load_classifier(teacher_folder), vocabulary), student)
    save_compressed_tokenizer(teacher_folder, student, vocabulary, TEXTS)
    save_tokenizer(student, tmp_path / "again")
    old = load_tokenizer(teacher_folder)
    for folder in (student, tmp_path / "again"):
        new = load_tokenizer(folder)
        for pair in (None, "the light is off"):
            expected = [vocabulary.map(np.array(old(t, pair)["input_ids"])).tolist() for t in TEXTS]
            assert [new(t, pair)["input_ids"] for t in TEXTS] == expected
        assert new.pad_token_id == vocabulary.new_of_old[old.pad_token_id]
        assert new.decode([new.cls_token_id, new.mask_token_id]) == "[CLS] [MASK]"
        assert not (folder / "vocab.txt").exists()
    model = AutoModelForSequenceClassification.from_pretrained(student)
    batch = load_tokenizer(student)(TEXTS, padding=True, return_tensors="pt")
    assert model(**batch).logits.shape == (4, 3)
    assert int(batch["input_ids"].max()) < len(vocabulary)


def test_a_tokenizer_whose_tokens_cannot_share_ids_is_refused() -> None:
    vocabulary, _ = made(9, 5, [0])
    with pytest.raises(UsageError, match="the tokenizer is a BPE one, whose tokens cannot share"):
        compressed_tokenizer({"model": {"type": "BPE", "vocab": {}}}, vocabulary)


def test_padding_and_framing_get_new_ids_in_every_form() -> None:
    vocabulary, _ = made(9, 5, [0, 7, 8])
    sep, cls = (int(vocabulary.new_of_old[i]) for i in (7, 8))
    bert = {"type": "BertProcessing", "sep": ["[SEP]", 7], "cls": ["[CLS]", 8]}
    content = {
        "model": {"type": "WordPiece", "vocab": {"a": 1, "[SEP]": 7}},
        "added_tokens": [{"id": 7, "content": "[SEP]"}],
        "padding": {"pad_id": 8, "pad_token": "x"},
        "post_processor": {"type": "Sequence", "processors": [bert, {"type": "ByteLevel"}]},
    }
    found = compressed_tokenizer(content, vocabulary)
    assert found["padding"]["pad_id"] == cls
    assert found["added_tokens"] == [{"id": sep, "content": "[SEP]"}]
    processors = found["post_processor"]["processors"]
    assert processors[0] == {"type": "BertProcessing", "sep": ["[SEP]", sep], "cls": ["[CLS]", cls]}
    assert processors[1] == {"type": "ByteLevel"}
    assert content["model"]["vocab"] == {"a": 1, "[SEP]": 7}


def task_texts(shared: Path, split: str) -> list[str]:
    """Questions of trec6 and the words of wnut17, one text per row."""
    questions = (shared / "data" / "trec6" / f"{split}.tsv").read_text().splitlines()[1:]
    posts = (shared / "data" / "wnut17" / f"{split}.jsonl").read_text().splitlines()
    return [q.split("\t")[0] for q in questions] + [
        " ".join(json.loads(p)["tokens"]) for p in posts
    ]


@pytest.mark.shared
def test_real_texts_get_the_mapped_ids_and_half_the_table_is_saved(
    shared: Path, tmp_path: Path
) -> None:
    folder = shared / "models" / "minilm-l6-sst2"
    with gzip.open(shared / "data" / "general_text" / "brown.txt.gz", "rt") as file:
        raw = list(itertools.islice(file, 5000))
    vocabulary = chosen_for(folder, [*raw, *task_texts(shared, "train")], 0.5)
    held_out = task_texts(shared, "test")
    save_compressed_tokenizer(folder, tmp_path, vocabulary, held_out)
    model = load_classifier(folder)
    small = select_tokens(model, vocabulary)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, small))
    assert before - after == 15261 * 384
    ids = load_tokenizer(folder)(held_out)["input_ids"]
    tokens = np.concatenate([np.asarray(row) for row in ids])
    kept = np.isin(tokens, vocabulary.kept).mean()
    assert kept > 0.93
