"""One table where the embeddings are the head: smaller files, the same answers, int8 too."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolchain.optimize.passes import tied_head
from toolchain.optimize.precisions import int8
from toolchain.optimize.simplify import simplify

VOCAB, WIDTH = 300, 32


def language_model(path: Path, *, tied: bool = True) -> Path:
    """Write embedding, one nonlinearity, and a head that is the embedding transposed, or not."""
    random = np.random.default_rng(0)
    table = random.normal(size=(VOCAB, WIDTH)).astype(np.float32)
    head = table.T if tied else random.normal(size=(WIDTH, VOCAB)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            helper.make_node("Tanh", ["rows"], ["hidden"]),
            helper.make_node("MatMul", ["hidden", "head"], ["logits"]),
        ],
        "lm",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", VOCAB])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.ascontiguousarray(head), "head"),
        ],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def run(path: Path) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input_ids": np.array([[1, 5, 9, 299]])})
    return np.asarray(logits)


def test_a_tied_table_is_held_once(tmp_path: Path) -> None:
    source = language_model(tmp_path / "source.onnx")
    facts = tied_head.apply(source, tmp_path / "out.onnx")
    assert facts.changed == 1
    assert facts.bytes_after < 0.55 * facts.bytes_before
    np.testing.assert_allclose(run(tmp_path / "out.onnx"), run(source), atol=1e-6)


def test_another_matrix_is_left_alone(tmp_path: Path) -> None:
    source = language_model(tmp_path / "source.onnx", tied=False)
    assert tied_head.apply(source, tmp_path / "out.onnx").changed == 0


def test_a_model_with_one_table_is_quantised_like_one_with_two(tmp_path: Path) -> None:
    source = language_model(tmp_path / "source.onnx")
    simplify(source, tmp_path / "small.onnx")
    for name in ("source", "small"):
        int8.write(tmp_path / f"{name}.onnx", tmp_path / f"{name}-int8.onnx")
    small = onnx.load(tmp_path / "small-int8.onnx")
    assert "MatMulInteger" in {node.op_type for node in small.graph.node}
    np.testing.assert_array_equal(
        run(tmp_path / "small-int8.onnx"), run(tmp_path / "source-int8.onnx")
    )
    assert (tmp_path / "small-int8.onnx").stat().st_size == pytest.approx(
        (tmp_path / "source-int8.onnx").stat().st_size, rel=0.05
    )
