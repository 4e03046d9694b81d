"""A graph that reads text reads it as the tokenizer does, or is not written."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxruntime import InferenceSession

from tests.unit.export.strings import ids_of, save_wordpiece, texts, vocabulary
from tests.unit.export.test_tokenizer import byte_level
from toolchain.errors import UsageError
from toolchain.export.inside import open_text, put_inside, text_tokens
from toolchain.export.reading import read_reading
from toolchain.export.tokenizer import PROBES, save_tokenizer
from toolchain.models.loading import load_tokenizer
from toolchain.steps.export import export

pytest.importorskip("onnxruntime_extensions", reason="the extra [extensions] is not installed")

KINDS = {
    "uncased": {},
    "cased": {"lowercase": False, "strip_accents": False},
    "lower with accents": {"strip_accents": False},
    "cased without accents": {"lowercase": False, "strip_accents": True},
    "no ideographs apart": {"chinese": False},
    "mpnet": {"roberta": True},
}
MOST = 16


def saved(folder: Path, kind: str) -> Path:
    special = ("<pad>", "<unk>", "<s>", "</s>", "<mask>") if kind == "mpnet" else ()
    upper = kind.startswith("cased")
    tokens = vocabulary(upper=upper, special=special) if special else vocabulary(upper=upper)
    return save_wordpiece(folder, tokens, **KINDS[kind])


def feed(rows: list[tuple[str, ...]]) -> dict[str, np.ndarray]:
    plain = [row[0] if len(row) == 1 else list(row) for row in rows]
    return {"text": np.array(plain, dtype=object)}


def unlike(
    session: InferenceSession, rows: list[tuple[str, ...]], expected: list[np.ndarray]
) -> bool:
    found = session.run(None, feed(rows))
    return not all(map(np.array_equal, found, expected))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_strange_texts_as_its_tokenizer_does(kind: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, kind)
    reading, tokenizer = read_reading(folder), load_tokenizer(folder)
    alone = text_tokens(reading, texts=1, max_tokens=MOST)
    pairs = text_tokens(reading, texts=2, max_tokens=MOST)

    @settings(
        max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.lists(texts(list(reading.vocabulary)), min_size=8, max_size=16))
    def tried(found: list[str]) -> None:
        rows = [(text,) for text in found]
        assert not unlike(alone, rows, ids_of(tokenizer, rows, MOST))
        two = list(zip(found, reversed(found), strict=True))
        assert not unlike(pairs, two, ids_of(tokenizer, two, MOST))

    tried()
    rows = [(text,) for text in PROBES]
    assert not unlike(alone, rows, ids_of(tokenizer, rows, MOST))


def test_rows_are_cut_as_the_tokenizer_cuts_them(tmp_path: Path) -> None:
    folder = saved(tmp_path, "uncased")
    reading, tokenizer = read_reading(folder), load_tokenizer(folder)
    for most in (5, 6, 9):
        pairs = text_tokens(reading, texts=2, max_tokens=most)
        lengths = range(9)
        rows = [(" ".join("a" * i), " ".join("b" * j)) for i in lengths for j in lengths]
        assert not unlike(pairs, rows, ids_of(tokenizer, rows, most)), most
        for row in rows:
            assert not unlike(pairs, [row], ids_of(tokenizer, [row], most)), (most, row)


def test_the_operator_of_the_extensions_alone_would_not_do(tmp_path: Path) -> None:
    """Why the graph is more than that operator; should this fail, it has been mended."""
    from onnx import TensorProto, helper

    folder = saved(tmp_path, "uncased")
    reading, tokenizer = read_reading(folder), load_tokenizer(folder)
    node = helper.make_node(
        "BertTokenizer",
        ["text"],
        ["ids", "types", "mask", "offsets"],
        domain="ai.onnx.contrib",
        vocab_file="\n".join(reading.vocabulary),
        strip_accents=1,
    )
    text = helper.make_tensor_value_info("text", TensorProto.STRING, ["n"])
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["t"])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.contrib", 1)]
    graph = helper.make_graph([node], "g", [text], [ids])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = open_text(model.SerializeToString())
    differs = []
    for case in ("good", "caf\u00e9", "a\u0101b", "good\U0001f600", "a\u2028b", "a\x7fb", "[MASK]"):
        (found,) = session.run(None, {"text": np.array([case], dtype=object)})
        if found.tolist() != tokenizer(case)["input_ids"]:
            differs.append(case)
    assert differs == ["a\u0101b", "good\U0001f600", "a\u2028b", "a\x7fb", "[MASK]"]


@pytest.fixture(scope="module")
def exported(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from toolchain.artifact import drafting

    folder = tmp_path_factory.mktemp("inside") / "exported"
    with drafting(folder, {}) as draft:
        export(draft, source=teacher_folder)
    return folder


def test_a_classifier_answers_text_with_logits_and_a_label(exported: Path, tmp_path: Path) -> None:
    rows = [("turn the lamp on",), ("more heat please caf\u00e9 \U0001f600",), ("",)]
    model = exported / "onnx" / "model.onnx"
    labels = ("heat", "light", "music")
    put_inside(model, exported, tmp_path / "t.onnx", rows=rows, max_tokens=24, labels=labels)
    session = open_text(tmp_path / "t.onnx")
    logits, label = session.run(["logits", "label"], feed(rows))
    apart = InferenceSession(str(model), providers=["CPUExecutionProvider"])
    ids, mask, types = ids_of(load_tokenizer(exported), rows, 24)
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    (expected,) = apart.run(["logits"], inputs)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert label.tolist() == [labels[i] for i in expected.argmax(axis=1)]
    assert [value.name for value in session.get_inputs()] == ["text"]


def test_equal_models_give_equal_bytes(exported: Path, tmp_path: Path) -> None:
    model = exported / "onnx" / "model.onnx"
    for name in ("one", "two"):
        put_inside(model, exported, tmp_path / name, rows=[("a", "b")], max_tokens=24)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert onnx.load(tmp_path / "one").graph.input[0].type.tensor_type.shape.dim[1].dim_value == 2


def changed(source: Path, folder: Path, **parts: object) -> Path:
    """A copy of a tokenizer with parts of tokenizer.json replaced."""
    save_tokenizer(source, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for name, part in parts.items():
        content[name] = {**(content[name] or {}), **part} if isinstance(part, dict) else part
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_other_tokenizers_are_refused_with_the_reason(exported: Path, tmp_path: Path) -> None:
    model, out = exported / "onnx" / "model.onnx", tmp_path / "t.onnx"
    source = saved(tmp_path / "source", "uncased")
    cases = {
        "cuts words by BPE, not WordPiece": byte_level(tmp_path / "bpe"),
        "keeps control characters": changed(
            source, tmp_path / "clean", normalizer={"clean_text": False}
        ),
        "prepares text by NFC, not BertNormalizer": changed(
            source, tmp_path / "nfc", normalizer={"type": "NFC"}
        ),
        "up to 30 characters, not 100": changed(
            source, tmp_path / "short", model={"max_input_chars_per_word": 30}
        ),
    }
    for reason, folder in cases.items():
        with pytest.raises(UsageError, match=reason):
            put_inside(model, folder, out, rows=[("a",)], max_tokens=24)
    with pytest.raises(UsageError, match="2 tokens leave no room for text"):
        put_inside(model, exported, out, rows=[("a",)], max_tokens=2)
    assert not out.exists()


def test_a_graph_that_reads_otherwise_is_not_written(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof must see a wrong table: here one without accents."""
    from dataclasses import replace

    from toolchain.export import inside

    right = read_reading(exported)
    wrong = replace(right, characters=replace(right.characters, mapped={}))
    monkeypatch.setattr(inside, "read_reading", lambda _: wrong)
    with pytest.raises(UsageError, match=r"a graph would read .* unlike its tokenizer"):
        put_inside(
            exported / "onnx" / "model.onnx",
            exported,
            tmp_path / "t.onnx",
            rows=[("caf\u00e9",)],
            max_tokens=24,
        )
    assert list(tmp_path.iterdir()) == []
