"""What a model answers to whole splits, against a plain loop over single rows."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from toolchain import metrics
from toolchain.data.batching import collate
from toolchain.data.masking import IGNORED, Masking
from toolchain.data.tokenizing import Rows, tokenize_raw
from toolchain.distill import evaluate as module
from toolchain.distill.evaluate import evaluate, logits_of_rows
from toolchain.metrics import TagLogits, TokenSums
from toolchain.recipe import DataTask

VOCAB = 40
NAMES = ("O", "B-x", "I-x")


def bert(kind: type[PreTrainedModel], labels: int = 3) -> PreTrainedModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, num_labels=labels,
        initializer_range=0.5,
    )  # fmt: skip
    return kind(config)


def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def rows_of(task: DataTask, labels: object, masking: Masking | None = None) -> Rows:
    random = np.random.default_rng(0)
    ids = [random.integers(5, VOCAB, n) for n in (7, 3, 12, 1, 5)]
    if task == "causal_lm":
        labels = tuple(np.append(row[1:], IGNORED) for row in ids)
    if task == "tag":
        labels = tuple(np.where(np.arange(len(row)) % 2, IGNORED, row % 3) for row in ids)
    return Rows(
        features=[{"input_ids": row, "attention_mask": np.ones_like(row)} for row in ids],
        labels=labels,  # type: ignore[arg-type]
        pad_id=0,
        truncated=0,
        task=task,
        masking=masking,
        names=NAMES,
    )


def alone(model: PreTrainedModel, rows: Rows, row: int) -> torch.Tensor:
    with torch.no_grad():
        return model(**collate(rows, [row]).inputs).logits[0]


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("classify", np.array([0, 1, 2, 0, 1])),
        ("multi_label", np.eye(5, 3, dtype=np.float32)),
        ("regress", np.arange(5, dtype=np.float32)),
    ],
)
def test_sentence_tasks_give_logits_in_the_order_of_the_rows(
    task: DataTask, labels: np.ndarray
) -> None:
    model = bert(BertForSequenceClassification, 1 if task == "regress" else 3).eval()
    rows = rows_of(task, labels)
    answers = evaluate(model, rows, batch_size=2)
    assert isinstance(answers.outputs, np.ndarray)
    for row in range(5):
        expected = alone(model, rows, row).numpy()
        np.testing.assert_allclose(answers.outputs[row], expected, atol=1e-5)
    assert answers.labels is rows.labels
    np.testing.assert_array_equal(answers.outputs, logits_of_rows(model, rows, batch_size=2))
    assert set(metrics.all_scores(answers.outputs, answers.labels)) == set(metrics.for_task(task))


def test_tagging_keeps_the_logits_of_labelled_words_alone() -> None:
    model, rows = bert(BertForTokenClassification).eval(), rows_of("tag", None)
    answers = evaluate(model, rows, batch_size=2)
    outputs = answers.outputs
    assert isinstance(outputs, TagLogits)
    assert isinstance(rows.labels, tuple)
    assert (len(outputs), outputs.names) == (5, NAMES)
    assert outputs.starts.tolist() == [0, 4, 6, 12, 13, 16]
    for row, labels in enumerate(rows.labels):
        expected = alone(model, rows, row)[torch.from_numpy(labels != IGNORED)].numpy()
        span = slice(outputs.starts[row], outputs.starts[row + 1])
        np.testing.assert_allclose(outputs.logits[span], expected, atol=1e-5)
        assert answers.labels is not None
        assert answers.labels[span].tolist() == labels[labels != IGNORED].tolist()


@pytest.mark.parametrize("alive", [1, 1 << 26])
def test_language_models_are_summed_row_by_row(alive: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOGITS", alive)
    masking = Masking(mask_id=4, vocab=VOCAB, special=(0, 4), seed=1)
    for model, rows in (
        (llama().eval(), rows_of("causal_lm", None)),
        (bert(BertForMaskedLM).eval(), rows_of("mask_lm", np.zeros(5, np.int64), masking)),
    ):
        answers = evaluate(model, rows, batch_size=3)
        sums = answers.outputs
        assert isinstance(sums, TokenSums)
        assert answers.labels is None
        for row in range(5):
            labels = collate(rows, [row]).labels[0]
            logits = alone(model, rows, row)[labels != IGNORED]
            wanted = labels[labels != IGNORED]
            loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
            assert sums.nll[row] == pytest.approx(float(loss) if len(wanted) else 0.0, rel=1e-4)
            assert sums.right[row] == int((logits.argmax(-1) == wanted).sum())
            assert sums.tokens[row] == len(wanted)
        again = evaluate(model, rows, batch_size=5).outputs
        assert isinstance(again, TokenSums)
        np.testing.assert_allclose(again.nll, sums.nll, rtol=1e-4)


def test_the_labels_of_a_causal_model_are_those_of_transformers() -> None:
    model, rows = llama().eval(), rows_of("causal_lm", None)
    batch = collate(rows, range(5))
    with torch.no_grad():
        unshifted = batch.inputs["input_ids"].masked_fill(batch.mask_BN == 0, IGNORED)
        expected = model(**batch.inputs, labels=unshifted).loss
    answers = evaluate(model, rows)
    assert metrics.score("loss", answers.outputs, None) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_given_back(training: bool) -> None:
    model = bert(BertForSequenceClassification).train(training)
    first = evaluate(model, rows_of("classify", np.zeros(5, np.int64))).outputs
    assert model.training is training
    # Dropout is off in any case.
    second = evaluate(model, rows_of("classify", np.zeros(5, np.int64))).outputs
    np.testing.assert_array_equal(first, second)


@pytest.mark.shared
def test_a_trained_decoder_knows_its_own_story(shared: Path) -> None:
    from toolchain.models.loading import load_tokenizer

    folder = shared / "models" / "stories260k"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    story = json.loads((folder / "golden.json").read_text(encoding="utf-8"))["text"]
    rows = tokenize_raw(load_tokenizer(folder), [story], task="causal_lm", max_tokens=512)
    answers = evaluate(model, rows)
    scores = metrics.all_scores(answers.outputs, answers.labels)
    # Greedy decoding wrote it, so every token but the end that was added is the likeliest.
    assert isinstance(answers.outputs, TokenSums)
    assert answers.outputs.right[0] == answers.outputs.tokens[0] - 1
    assert scores["loss"] == pytest.approx(0.639, abs=0.001)
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))
