"""Static int8: what is quantised, by which ranges, and that it decides by what was held back."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.optimize.conftest import feed, run, texts
from toolchain.optimize.precisions.int8_static import write
from toolchain.optimize.products import groups, read_products
from toolchain.optimize.static import RANGES, static
from toolchain.optimize.texts import flows


@pytest.fixture(scope="module")
def quantised(simplified: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("static") / "model.onnx"
    write(simplified, path, texts(40))
    return path


def test_every_product_of_weights_reads_integers_on_both_sides(quantised: Path) -> None:
    graph = onnx.load(quantised).graph
    maker = {name: node for node in graph.node for name in node.output}
    held = {tensor.name: tensor for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    # Six in each of three blocks, pooler, classifier; attention's own products stay in floats.
    assert len(products) == 3 * 6 + 2
    for node in products:
        weights, steps, *bias = (held[name] for name in (*node.input[1:4:2], *node.input[6:]))
        assert weights.data_type == TensorProto.INT8
        assert all(list(one.dims) == [weights.dims[1]] for one in (steps, *bias))
        assert maker[node.input[0]].op_type == "QuantizeLinear"
    # What queries, keys and values read is rounded once.
    assert len({node.input[0] for node in products}) < len(products)
    left = [n for n in graph.node if n.op_type in ("MatMul", "Gemm") and set(n.input) & set(held)]
    assert left == []


def test_a_row_is_answered_alike_alone_and_in_a_padded_batch(quantised: Path) -> None:
    inputs = feed(4, 13)
    first = {name: values[:1] for name, values in inputs.items()}
    np.testing.assert_allclose(run(quantised, inputs)[:1], run(quantised, first), atol=1e-4)


def test_the_notes_say_what_was_chosen(simplified: Path, tmp_path: Path) -> None:
    (note,) = write(simplified, tmp_path / "out.onnx", texts(40)).notes
    assert note.startswith("ranges: ")
    assert note.endswith("with fp32 on 10 texts held back")


def product(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["x"], name="rows"),
            helper.make_node("MatMul", ["x", "w"], ["logits"], name="product"),
        ],
        "g",
        [value("input_ids", TensorProto.INT64, ["b", "n"])],
        [value("logits", TensorProto.FLOAT, ["b", "n", 8])],
        [
            numpy_helper.from_array(random.normal(size=(500, 8)).astype(np.float32), "table"),
            numpy_helper.from_array(random.normal(size=(8, 8)).astype(np.float32), "w"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "product.onnx")
    return tmp_path / "product.onnx"


def test_ranges_hold_what_texts_had(tmp_path: Path) -> None:
    proto = read_products(product(tmp_path))
    ids = np.arange(500)[None]
    rows = [{"input_ids": ids, "attention_mask": np.ones_like(ids)}]
    flow = flows(proto, list(groups(proto.graph)), rows)["x"]
    table = numpy_helper.to_array(proto.graph.initializer[0])
    assert RANGES["minmax"](flow) == pytest.approx((table.min(), table.max()))
    for name in ("percentile", "entropy"):
        low, high = RANGES[name](flow)
        assert table.min() <= low < -1 < 1 < high <= table.max()
    np.testing.assert_allclose(flow.peaks_K, np.abs(table).max(axis=0))


def test_what_has_no_range_stays_in_floats(tmp_path: Path) -> None:
    proto = read_products(product(tmp_path))
    assert static(proto, {}) == 1
    assert [node.op_type for node in proto.graph.node][-1] == "MatMul"
    assert "QuantizeLinear" not in {node.op_type for node in proto.graph.node}
