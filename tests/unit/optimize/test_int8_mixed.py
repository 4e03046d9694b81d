"""Mixed int8: the products that int8 harms stay out of it, as few as are needed."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.unit.optimize.conftest import texts
from toolchain.optimize.precisions import int8
from toolchain.optimize.precisions.int8_mixed import CLOSE, write
from toolchain.optimize.products import read_products
from toolchain.optimize.sensitivity import Sensitivity
from toolchain.optimize.texts import answers, closeness

WIDTH = 64


def two_products(path: Path, outlier: float) -> Path:
    """Write two products; one text in a dozen has a token many times the size of the others."""
    random = np.random.default_rng(0)
    table = random.normal(size=(400, WIDTH))
    table[::97] *= outlier
    value = helper.make_tensor_value_info
    arrays = {
        "table": table,
        "hard": random.normal(size=(WIDTH, WIDTH)) / 8,
        "easy": random.normal(size=(WIDTH, 16)),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"], name="rows"),
            helper.make_node("MatMul", ["rows", "hard"], ["hidden"], name="first"),
            helper.make_node("Tanh", ["hidden"], ["bounded"], name="bound"),
            helper.make_node("MatMul", ["bounded", "easy"], ["logits"], name="second"),
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


def test_the_product_that_int8_harms_stays_out_of_it(tmp_path: Path) -> None:
    source = two_products(tmp_path / "model.onnx", outlier=1000)
    notes = write(source, tmp_path / "out.onnx", ids(40)).notes
    spared = int(notes[0].split(" of 2 products")[0])
    assert spared >= 1
    kept = notes[0].split(" products in ")[1].split(";")[0]
    assert notes[1] == f"in {kept}: hidden (hard)"
    kinds = {node.output[0]: node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node}
    assert kinds["hidden"] == {"blocks": "MatMulNBits", "fp32": "MatMul"}[kept]
    int8.write(source, tmp_path / "int8.onnx")
    wanted = answers(onnx.load(source), ids(60))
    lost = {
        name: 1 - closeness(answers(onnx.load(tmp_path / f"{name}.onnx"), ids(60)), wanted)
        for name in ("int8", "out")
    }
    assert lost["out"] < 0.1 * lost["int8"]


def test_the_switches_foretell_what_int8_does(simplified: Path) -> None:
    proto = read_products(simplified)
    model = Sensitivity(proto)
    wanted = answers(proto, texts(6))
    np.testing.assert_allclose(model.answers(texts(6), ()), wanted, atol=1e-5)
    alone = [closeness(model.answers(texts(6), (name,)), wanted) for name in model.names]
    whole = closeness(model.answers(texts(6), model.names), wanted)
    assert len(alone) == 3 * 6 + 2
    assert whole < max(alone) <= 1 + 1e-6
    assert 0.98 < whole < 1


def test_every_product_that_stayed_is_named(simplified: Path, tmp_path: Path) -> None:
    first, *rest = write(simplified, tmp_path / "out.onnx", texts(40)).notes
    spared = int(first.split(" of ")[0])
    assert len(rest) == spared
    assert float(first.split(" held back, ")[1].split()[0]) <= CLOSE
