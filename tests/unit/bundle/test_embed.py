"""The sample program of sentence encoders, its golden vectors, and its self-test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from tests.unit.bundle.conftest import TEXTS, VOCABULARY
from toolchain.errors import UsageError

WIDTH = 12


def save_vector_model(path: Path) -> Path:
    """Write a model whose vector of a text is the mean of its tokens' own, times a matrix."""
    generator = np.random.default_rng(1)
    words = generator.normal(size=(len(VOCABULARY), 16)).astype(np.float32)
    matrix = generator.normal(size=(16, WIDTH)).astype(np.float32)
    axes = np.array([1], dtype=np.int64)
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["states"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["states", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axes"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask3", "axes"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "matrix"], ["wide"]),
        helper.make_node("LpNormalization", ["wide"], ["sentence_embedding"], axis=-1),
    ]
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    given = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", WIDTH])
    held = {"words": words, "matrix": matrix, "axes": axes, "last": np.array([2], dtype=np.int64)}
    tensors = [numpy_helper.from_array(array, name) for name, array in held.items()]
    graph = helper.make_graph(nodes, "embedder", ids, [given], tensors)
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def bundles(workshop: Any) -> dict[str, Path]:
    model = save_vector_model(workshop.root / "embedder.onnx")
    int8 = workshop.root / "embedder-int8.onnx"
    quantize_dynamic(model, int8, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    asked = {"labels": (), "task": "embed", "golden_texts": TEXTS}
    return {
        "fp32": workshop.make("embedder-fp32", model=model, **asked),
        "int8": workshop.make("embedder-int8", model=int8, precision="int8", **asked),
    }


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_golden_rows_hold_whole_vectors_and_no_decision(
    bundles: dict[str, Path], precision: str, copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles[precision])
    proof = bundle.prove()
    assert proof["problems"] == []
    # A vector decides nothing, so none is too close to call.
    assert "close_calls" not in proof
    assert "agreement" not in proof
    for row in bundle.golden():
        assert set(row) == {"text", "input_ids", "token_type_ids", "logits"}
        assert np.linalg.norm(row["logits"]) == pytest.approx(1, abs=1e-5)
        assert len(row["logits"]) == WIDTH


def test_vectors_and_similarities_are_told(
    bundles: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles["fp32"])
    first, second = bundle.golden()[:2]
    ran = bundle.run("embed.py", "--json", first["text"], second["text"])
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    for answer, row in zip(told, (first, second), strict=True):
        assert answer["text"] == row["text"]
        assert answer["embedding"] == pytest.approx(row["logits"], abs=1e-6)
    lines = bundle.run("embed.py", stdin=f"{first['text']}\n".encode()).stdout.decode()
    assert [float(x) for x in lines.split()] == pytest.approx(first["logits"], abs=1e-5)
    cosine = float(np.dot(first["logits"], second["logits"]))
    pair = f"{first['text']}\t{second['text']}\n".encode()
    assert float(bundle.run("embed.py", "--compare", stdin=pair).stdout) == pytest.approx(
        cosine, abs=1e-4
    )
    ran = bundle.run("embed.py", "--compare", "--json", first["text"], first["text"])
    assert json.loads(ran.stdout)["similarity"] == pytest.approx(1)


@pytest.mark.parametrize("words", [("--compare", "alone"), ("--compare",)])
def test_one_text_cannot_be_compared(
    words: tuple[str, ...], bundles: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    ran = copy_of(bundles["fp32"]).run("embed.py", *words, stdin=b"alone\n")
    assert ran.returncode == 2
    assert b"two texts" in ran.stderr


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_another_direction_is_found(
    precision: str, bundles: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles[precision])
    rows = bundle.golden()
    rows[0]["logits"] = [-x for x in rows[0]["logits"]]
    bundle.write_golden(rows)
    bundle.reseal()
    problems = " ".join(bundle.examine()["problems"])
    said = "differs by more than" if precision == "fp32" else "have a cosine below 0.99: row 1"
    assert said in problems


def test_a_width_that_is_not_the_models_is_named(
    bundles: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles["fp32"])
    path = bundle.folder / "bundle.json"
    about = json.loads(path.read_text())
    about["model"]["width"] = 99
    path.write_text(json.dumps(about))
    ran = bundle.run("embed.py", "a text")
    assert ran.returncode == 4
    assert b"answers (1, 12), expected (1, 99)" in ran.stderr


def test_labels_are_refused(workshop: Any) -> None:
    model = save_vector_model(workshop.root / "labelled.onnx")
    with pytest.raises(UsageError, match="expected no labels for embed"):
        workshop.make("labelled", model=model, labels=("a",), task="embed", golden_texts=TEXTS)


def test_the_readme_says_how_to_ask_and_runs(
    bundles: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles["fp32"])
    readme = (bundle.folder / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# Sentence encoder for ")
    assert "a vector of 12 numbers" in readme
    program = readme.split("```python\n")[1].split("```")[0]
    path = f"import sys; sys.path.insert(0, {str(bundle.folder)!r})\n"
    own = bundle.folder / "own.py"
    own.write_text(path + program.replace('Path(".")', "Path(__file__).parent"))
    ran = bundle.run("own.py")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(b"(1, 12) ")
    int8 = (bundles["int8"] / "README.md").read_text(encoding="utf-8")
    assert "a cosine of at least 0.99 in every row and 0.999 on average." in int8
