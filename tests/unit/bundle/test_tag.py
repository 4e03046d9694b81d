"""The sample program of taggers: words, places, long texts, golden tokens, and its self-test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from tests.unit.bundle.conftest import VOCABULARY
from toolchain.bundle.assets.tag import Tagger, Word, _entities, split
from toolchain.bundle.bundle import build
from toolchain.errors import IntegrityError
from toolchain.metrics.spans import entities

TAGS = ("O", "B-film", "I-film", "B-place")
ROWS = [("the", "film", "is", "good"), ("a", "bad", "film"), ("the", "great", "cafe", "."), ("of",)]


def save_token_model(path: Path, *, outcomes: int) -> Path:
    """Save a model that answers per token: word embedding, one matrix, one bias."""
    random = np.random.default_rng(5)
    weights = {
        "words": random.normal(size=(len(VOCABULARY), 16)),
        "matrix": random.normal(size=(16, outcomes)) * 2,
        "bias": random.normal(size=outcomes) / 10,
    }
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["word"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_BN1"]),
        helper.make_node("Mul", ["word", "mask_BN1"], ["masked"]),
        helper.make_node("MatMul", ["masked", "matrix"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    held = [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()]
    held.append(numpy_helper.from_array(np.array([-1], np.int64), "last"))
    names = ("input_ids", "attention_mask")
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["B", "N"]) for n in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "N", outcomes])],
        held,
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def bundles(workshop: Any) -> dict[str, Path]:
    model = save_token_model(workshop.root / "tagger.onnx", outcomes=len(TAGS))
    int8 = workshop.root / "tagger-int8.onnx"
    quantize_dynamic(model, int8, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    asked = {"labels": TAGS, "task": "tag", "golden_texts": ROWS}
    return {
        "fp32": workshop.make("tagger-fp32", model=model, **asked),
        "int8": workshop.make("tagger-int8", model=int8, precision="int8", **asked),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the film", [("the", 0, 3), ("film", 4, 8)]),
        (' "good" (bad).', ['"', "good", '"', "(", "bad", ")", "."]),
        ("it's U.S. 3.14 ...", ["it's", "U.S", ".", "3.14", ".", ".", "."]),
        ("caf\u00e9,\u3000\u4f60\u597d", ["caf\u00e9", ",", "\u4f60\u597d"]),
        (" \t\n", []),
    ],
)
def test_words_are_set_apart_and_keep_their_places(text: str, words: list[Any]) -> None:
    found = split(text)
    assert [w.word if isinstance(words[0], str) else tuple(w[:3]) for w in found] == words
    assert all(text[w.start : w.end] == w.word for w in found)


def test_words_set_apart_already_are_left_whole() -> None:
    assert [w.word for w in split("(a) b.", apart=True)] == ["(a)", "b."]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_tagger_is_packed_and_proves_itself(
    bundles: dict[str, Path], precision: str, copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles[precision])
    report = bundle.prove()
    assert report["problems"] == []
    assert ("max_abs_padded" in report) == (precision == "fp32")
    rows = bundle.golden()
    assert [tuple(row["words"]) for row in rows[:4]] == ROWS
    assert len(rows) > 30
    row = rows[0]
    # One token is one word here, behind [CLS].
    assert row["positions"] == [1, 2, 3, 4]
    assert row["tags"] == [TAGS[int(np.argmax(logits))] for logits in row["logits"]]
    assert max(len(row["positions"]) for row in rows) == 16
    assert len({tag for row in rows for tag in row["tags"]}) > 2


def test_the_program_answers_as_the_golden_rows_say(
    bundles: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles["fp32"])
    row = bundle.golden()[2]
    ran = bundle.run("tag.py", "the great cafe .", "")
    lines = ran.stdout.decode().split("\n")
    assert [line.split("\t")[:2] for line in lines[:4]] == [
        [word, tag] for word, tag in zip(row["words"], row["tags"], strict=True)
    ]
    assert [line.split("\t")[3:] for line in lines[:2]] == [["0", "3"], ["4", "9"]]
    assert lines[4:] == ["", "", ""]
    answer = json.loads(bundle.run("tag.py", "--json", stdin=b"the great cafe.\n").stdout)
    assert [w["tag"] for w in answer["words"]] == row["tags"]
    powers = np.exp(row["logits"][0])
    assert answer["words"][0]["probability"] == pytest.approx(
        (powers / powers.sum()).max(), abs=1e-5
    )


def test_a_text_longer_than_the_model_takes_is_tagged_to_its_end(bundles: dict[str, Path]) -> None:
    tagger = Tagger(bundles["fp32"])
    words = split("the film is good and the cafe is bad " * 10)
    tagged = tagger.tag(words)
    assert len(tagged) == 90
    assert [w.tag for w in tagged] == [w.tag for w in tagger.tag(words[:9])] * 10


def test_a_word_the_tokenizer_does_not_see_has_no_tag(bundles: dict[str, Path]) -> None:
    tagger = Tagger(bundles["fp32"])
    first, unseen, last = tagger.tag(split("film \u200b good"))
    assert (first.tag is None, unseen.tag, last.tag is None) == (False, None, False)
    assert tagger.tag([Word("\u200b", 0, 1)])[0].tag is None
    assert tagger.tag([]) == []


def test_entities_are_those_of_conll() -> None:
    cases = ["B-a I-a O", "I-a I-a B-a", "B-a I-b I-b", "O I-a O", "B-a B-a I-a", "I-a I-b O I-b"]
    for case in cases:
        tags = case.split()
        words = [Word("w", i, i + 1, tag) for i, tag in enumerate(tags)]
        found = {(e["label"], e["start"], e["end"] - 1) for e in _entities(words, "w" * len(tags))}
        assert found == entities(tags), case


def test_a_changed_golden_tag_or_figure_is_found(
    bundles: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles["fp32"])
    rows = bundle.golden()
    rows[1]["logits"][2] = [figure + 1 for figure in rows[1]["logits"][2]]
    bundle.write_golden(rows)
    bundle.reseal()
    (problem, *_) = bundle.examine()["problems"]
    assert "1 of " in problem
    assert "golden tokens differs by more than 0.0001, most (1) in row 2, token 3" in problem
    rows[1]["tags"][2] = next(tag for tag in TAGS if tag != rows[1]["tags"][2])
    bundle.write_golden(rows)
    bundle.reseal()
    assert "a label that is not that of its output" in bundle.examine()["problems"][0]


def test_the_readme_says_what_is_answered_and_runs(
    bundles: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles["int8"])
    readme = (bundle.folder / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# Tagger for ")
    assert "gives each word of a text one of 4 tags: O, B-film, I-film, B-place." in readme
    assert "a cosine of at least 0.99 in every token" in readme
    program = readme.split("```python\n")[1].split("```")[0]
    path = f"import sys; sys.path.insert(0, {str(bundle.folder)!r})\n"
    own = bundle.folder / "own.py"
    own.write_text(path + program.replace('Path(".")', "Path(__file__).parent"))
    ran = bundle.run("own.py")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(b"('O', 'B-film', 'I-film', 'B-place') [Word(")


def test_labels_of_another_number_than_the_models_are_refused(
    workshop: Any, tmp_path: Path
) -> None:
    model = save_token_model(tmp_path / "tagger.onnx", outcomes=len(TAGS))
    out = tmp_path / "out"
    out.mkdir()
    asked = workshop.arguments(model=model, labels=TAGS[:2], task="tag", golden_texts=ROWS)
    with pytest.raises(IntegrityError, match=r"answers \(1, 6, 4\), expected \(1, 6, 2\)"):
        build(out, **asked)
