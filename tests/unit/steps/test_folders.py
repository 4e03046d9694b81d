"""What a folder's config.json says of its classes."""

import json
from pathlib import Path

import pytest
from transformers import BertConfig, BertForSequenceClassification

from toolchain.errors import UsageError
from toolchain.steps.folders import labels_of


def test_two_classes_that_transformers_does_not_write_down_have_its_names(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    assert "id2label" not in json.loads((tmp_path / "config.json").read_text())
    assert labels_of(tmp_path) == config.id2label == {0: "LABEL_0", 1: "LABEL_1"}


@pytest.mark.parametrize("names", [{}, ["negative", "positive"], None])
def test_names_that_are_none_are_refused(tmp_path: Path, names: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "id2label": names}))
    with pytest.raises(UsageError, match="names no classes"):
        labels_of(tmp_path)
