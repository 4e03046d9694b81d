"""fp16: half the file, outputs of the same type, and nothing overflows."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.optimize.conftest import feed, run
from toolchain.errors import UsageError
from toolchain.optimize.precisions.fp16 import write


def save(path: Path, nodes: list[onnx.NodeProto], held: dict[str, np.ndarray]) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 8])],
        [value("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(np.asarray(a, np.float32), name) for name, a in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def ask(path: Path, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def test_weights_are_halves_and_padding_still_counts_for_nothing(
    simplified: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    facts = write(simplified, out)
    kinds = {t.data_type for t in onnx.load(out).graph.initializer}
    assert TensorProto.FLOAT not in kinds
    assert facts.changed > 20
    inputs = feed(4, 13)
    # The batch's padded rows are masked: alone they say the same.
    short = int(inputs["attention_mask"][2].sum())
    alone = {name: values[2:3, :short] for name, values in inputs.items()}
    np.testing.assert_allclose(run(out, inputs)[2:3], run(out, alone), atol=5e-3)
    np.testing.assert_allclose(run(out, inputs), run(simplified, inputs), atol=2e-2, rtol=1e-2)


def test_squares_beyond_what_fp16_holds_do_not_overflow(tmp_path: Path) -> None:
    node = helper.make_node
    source = save(
        tmp_path / "rms.onnx",
        [
            node("MatMul", ["x", "w"], ["h"], name="h"),
            node("Pow", ["h", "two"], ["square"], name="square"),
            node("ReduceMean", ["square"], ["mean"], name="mean", keepdims=1),
            node("Add", ["mean", "eps"], ["safe"], name="safe"),
            node("Sqrt", ["safe"], ["root"], name="root"),
            node("Div", ["h", "root"], ["y"], name="y"),
        ],
        {"w": 2000 * np.eye(8), "two": np.float32(2), "eps": np.float32(1e-6)},
    )
    write(source, tmp_path / "out.onnx")
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    assert (2000 * np.abs(x)).max() ** 2 > np.finfo(np.float16).max
    np.testing.assert_allclose(ask(tmp_path / "out.onnx", x), ask(source, x), atol=2e-2)


@pytest.mark.parametrize("mask", [-np.inf, np.finfo(np.float32).min, -1e9])
def test_masks_stay_masks(tmp_path: Path, mask: float) -> None:
    node = helper.make_node
    hidden = np.zeros(8)
    hidden[3:] = mask
    source = save(
        tmp_path / "mask.onnx",
        [
            node("MatMul", ["x", "w"], ["h"], name="h"),
            node("Add", ["h", "mask"], ["scores"], name="scores"),
            # Some exporters add a mask twice.
            node("Add", ["scores", "mask"], ["twice"], name="twice"),
            node("Softmax", ["twice"], ["y"], name="y", axis=-1),
        ],
        {"w": np.eye(8), "mask": hidden},
    )
    write(source, tmp_path / "out.onnx")
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    found = ask(tmp_path / "out.onnx", x)
    np.testing.assert_allclose(found, ask(source, x), atol=2e-3)
    assert (found[:, 3:] == 0).all()


def test_a_graph_inside_a_node_is_refused(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["h"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["n", 8])],
    )
    source = save(
        tmp_path / "if.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="h"),
            helper.make_node("Constant", [], ["yes"], value_int=1),
            helper.make_node("Cast", ["yes"], ["on"], to=TensorProto.BOOL),
            helper.make_node("If", ["on"], ["y"], then_branch=branch, else_branch=branch),
        ],
        {"w": np.eye(8)},
    )
    with pytest.raises(UsageError, match="holds a graph inside a node"):
        write(source, tmp_path / "out.onnx")
