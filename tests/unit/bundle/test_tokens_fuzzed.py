"""The tokenizer is part of the model: every copy of it reads every text alike.

Four readers: transformers with the source folder, transformers with the copy, the bundle's own
script with its tokenizer.json, and the graph that reads text.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.unit.export.strings import ids_of, texts
from toolchain.bundle.assets.classify import Classifier
from toolchain.export.tokenizer import save_tokenizer
from toolchain.models.loading import load_tokenizer

NAMES = ("input_ids", "attention_mask", "token_type_ids")
MOST = 24
FUZZ: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "database": None,
}


def try_all(source: Path, bundle: Path, copy: Path, *, lists: int) -> int:
    """Ask the readers about `lists` lists of 16 texts; returns how many texts were asked about."""
    pytest.importorskip("onnxruntime_extensions", reason="the extra [extensions] is not installed")
    from toolchain.export.inside import text_tokens
    from toolchain.export.reading import read_reading

    save_tokenizer(source, copy)
    first, second = load_tokenizer(source), load_tokenizer(copy)
    shipped = Classifier(bundle)
    reading = read_reading(source)
    graph = text_tokens(reading, texts=1, max_tokens=MOST)
    step = max(1, len(reading.vocabulary) // 512)
    asked = 0

    @settings(max_examples=lists, **FUZZ)
    @given(st.lists(texts(list(reading.vocabulary[::step])), min_size=16, max_size=16))
    def tried(found: list[str]) -> None:
        nonlocal asked
        rows = [(text,) for text in found]
        expected = ids_of(first, rows, MOST)
        script = shipped.encode(rows)
        answers = {
            "copy": ids_of(second, rows, MOST),
            "script": [script[name] for name in NAMES],
            "graph": graph.run(None, {"text": np.array(found, dtype=object)}),
        }
        for name, answer in answers.items():
            assert all(map(np.array_equal, answer, expected)), name
        asked += len(found)

    tried()
    return asked


def test_four_readers_read_two_thousand_strange_texts_alike(
    workshop: Any, fp32_bundle: Path, tmp_path: Path
) -> None:
    assert try_all(workshop.tokenizer, fp32_bundle, tmp_path / "copy", lists=125) >= 2000


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.timeout(3000)
def test_four_readers_read_a_hundred_thousand_texts_alike(
    fp32_bundle: Path, shared: Path, tmp_path: Path
) -> None:
    """With the vocabulary of a real model; the bundle's model is not asked."""
    source, bundle = shared / "models" / "minilm-l6-sst2", tmp_path / "bundle"
    shutil.copytree(fp32_bundle, bundle)
    save_tokenizer(source, tmp_path / "saved")
    shutil.copyfile(tmp_path / "saved" / "tokenizer.json", bundle / "tokenizer.json")
    assert try_all(source, bundle, tmp_path / "copy", lists=6250) >= 100_000


@pytest.mark.shared
def test_vocab_txt_alone_makes_the_same_tokenizer(shared: Path, tmp_path: Path) -> None:
    """Device code reads vocab.txt and knows nothing else; lower-casing is BERT's default."""
    save_tokenizer(shared / "models" / "minilm-l6-sst2", tmp_path / "saved")
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copyfile(tmp_path / "saved" / "vocab.txt", alone / "vocab.txt")
    (alone / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    lines = (alone / "vocab.txt").read_text(encoding="utf-8").split("\n")
    known = load_tokenizer(tmp_path / "saved").get_vocab()
    assert known == {token: number for number, token in enumerate(lines[:-1])}
    tokenizer = AutoTokenizer.from_pretrained(alone)
    whole = load_tokenizer(tmp_path / "saved")

    @settings(max_examples=25, **FUZZ)
    @given(st.lists(texts(lines[:-1:64]), min_size=8, max_size=8))
    def tried(found: list[str]) -> None:
        rows = [(text,) for text in found]
        assert all(map(np.array_equal, ids_of(tokenizer, rows, MOST), ids_of(whole, rows, MOST)))

    tried()
