"""Outliers moved into weights: the same product, easier to round."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.optimize.conftest import feed, run, texts
from toolchain.optimize.precisions import int8, int8_smooth
from toolchain.optimize.products import groups, read_products
from toolchain.optimize.smoothing import smooth
from toolchain.optimize.texts import answers, closeness, flows

WIDTH = 64


def outlying(path: Path) -> Path:
    """Write a table, a norm and a product, one feature of the norm 60 times the others."""
    random = np.random.default_rng(0)
    scale = np.ones(WIDTH, np.float32)
    scale[5] = 60
    value = helper.make_tensor_value_info
    arrays = {
        "table": random.normal(size=(400, WIDTH)),
        "scale": scale,
        "bias": random.normal(size=WIDTH),
        "w": random.normal(size=(WIDTH, 16)) / np.maximum(scale, 1)[:, None],
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"], name="rows"),
            helper.make_node("LayerNormalization", ["rows", "scale", "bias"], ["x"], name="norm"),
            helper.make_node("MatMul", ["x", "w"], ["logits"], name="product"),
        ],
        "g",
        [value("input_ids", TensorProto.INT64, ["b", "n"])],
        [value("logits", TensorProto.FLOAT, ["b", "n", 16])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


def ids(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(2)
    return [{"input_ids": random.integers(0, 400, (1, 9))} for _ in range(count)]


@pytest.mark.parametrize("strength", [0.5, 0.9])
def test_moving_outliers_changes_no_answer(simplified: Path, strength: float) -> None:
    proto = read_products(simplified)
    moved = copy.deepcopy(proto)
    flow = flows(proto, list(groups(proto.graph)), texts(8))
    known = smooth(moved, flow, strength)
    assert set(known) == set(groups(moved.graph))
    np.testing.assert_allclose(answers(moved, texts(8)), answers(proto, texts(8)), atol=1e-4)


def test_a_norm_that_only_products_read_takes_the_division_itself(tmp_path: Path) -> None:
    proto = read_products(outlying(tmp_path / "model.onnx"))
    wanted = answers(proto, ids(4))
    smooth(proto, flows(proto, ["x"], ids(8)), 0.8)
    assert "Mul" not in {node.op_type for node in proto.graph.node}
    np.testing.assert_allclose(answers(proto, ids(4)), wanted, atol=1e-4)


def test_an_outlier_costs_int8_less_once_it_is_moved(tmp_path: Path) -> None:
    source = outlying(tmp_path / "model.onnx")
    int8.write(source, tmp_path / "int8.onnx")
    (note,) = int8_smooth.write(source, tmp_path / "smooth.onnx", ids(40)).notes
    wanted = answers(onnx.load(source), ids(60))
    lost = {
        name: 1 - closeness(answers(onnx.load(tmp_path / f"{name}.onnx"), ids(60)), wanted)
        for name in ("int8", "smooth")
    }
    assert lost["smooth"] < 0.5 * lost["int8"]
    assert note.startswith("outliers moved by 0.")


def test_activations_are_still_quantised_as_they_come(simplified: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    int8_smooth.write(simplified, out, texts(40))
    ops = [node.op_type for node in onnx.load(out).graph.node]
    assert ops.count("MatMulInteger") == 3 * 6 + 2
    assert run(out, feed(2, 7)).shape == (2, 3)
