"""Dynamic int8: smaller, close, per channel, and never twice."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.optimize.conftest import feed, run
from toolchain.errors import UsageError
from toolchain.optimize.precisions.int8 import write


@pytest.fixture(scope="module")
def quantised(simplified: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    write(simplified, path)
    return path


def test_the_file_gets_smaller_and_every_weight_matrix_is_int8(
    simplified: Path, quantised: Path
) -> None:
    assert quantised.stat().st_size < simplified.stat().st_size / 2
    held = {tensor.name: tensor for tensor in onnx.load(quantised).graph.initializer}
    floats = [t.name for t in held.values() if t.data_type == TensorProto.FLOAT and t.dims]
    assert max(int(np.prod(held[name].dims)) for name in floats) <= 48
    kinds = {t.data_type for t in held.values() if len(t.dims) == 2}
    # The 64-bit integers are position numbers.
    assert kinds == {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT64}


def test_weights_have_one_scale_per_output_channel(quantised: Path) -> None:
    proto = onnx.load(quantised)
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    products = [node for node in proto.graph.node if node.op_type == "MatMulInteger"]
    # Six in each of three blocks, pooler, classifier.
    assert len(products) == 3 * 6 + 2
    for node in products:
        weight = held[node.input[1]]
        scale = held[weight.name.removesuffix("_quantized") + "_scale"]
        assert weight.data_type == TensorProto.INT8
        assert list(scale.dims) == [weight.dims[1]]


def test_embeddings_are_gathered_as_int8_before_they_become_floats(quantised: Path) -> None:
    proto = onnx.load(quantised)
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    tables = [n for n in proto.graph.node if n.op_type == "Gather" and n.input[0] in held]
    assert len(tables) == 3
    for node in tables:
        readers = [n.op_type for n in proto.graph.node if node.output[0] in n.input]
        assert held[node.input[0]].data_type in (TensorProto.INT8, TensorProto.UINT8)
        assert readers == ["DequantizeLinear"]


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (1, 40), (4, 13)])
def test_answers_stay_close(simplified: Path, quantised: Path, rows: int, tokens: int) -> None:
    inputs = feed(rows, tokens)
    expected, found = run(simplified, inputs), run(quantised, inputs)
    assert expected.shape == found.shape
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    assert ((expected * found).sum(axis=1) / norms).min() > 0.98


def test_quantising_twice_is_refused(quantised: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="quantising twice"):
        write(quantised, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_without_weights_to_quantise_is_refused(tmp_path: Path) -> None:
    def save(op: str, opset: int) -> Path:
        names = ["x", "y"] if op == "MatMul" else ["x"]
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 2]) for n in names]
        result = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 2])
        graph = helper.make_graph([helper.make_node(op, names, ["z"])], "g", values, [result])
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )
        onnx.save(model, tmp_path / f"{op}{opset}.onnx")
        return tmp_path / f"{op}{opset}.onnx"

    out = tmp_path / "out.onnx"
    with pytest.raises(UsageError, match="holds no matrix product"):
        write(save("Relu", 20), out)
    with pytest.raises(UsageError, match="opset 11, int8 with a scale per channel needs 13"):
        write(save("MatMul", 11), out)
    assert not out.exists()


def test_stacked_matrices_are_left_in_float(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    stack = generator.normal(size=(3, 8, 8)).astype(np.float32)
    flat = generator.normal(size=(8, 8)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "flat"], ["y"], name="first"),
            helper.make_node("MatMul", ["y", "stack"], ["z"], name="second"),
        ],
        "g",
        [value("x", TensorProto.FLOAT, [3, "n", 8])],
        [value("z", TensorProto.FLOAT, [3, "n", 8])],
        [numpy_helper.from_array(stack, "stack"), numpy_helper.from_array(flat, "flat")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    assert write(tmp_path / "model.onnx", tmp_path / "int8.onnx").changed == 1
    x = generator.normal(size=(3, 5, 8)).astype(np.float32)
    session = ort.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    np.testing.assert_allclose(found, x @ flat @ stack, atol=0.5)
