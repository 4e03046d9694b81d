"""What every pass keeps, and what each rewrite achieves."""

import hashlib
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from tests.unit.optimize.conftest import feed, run
from toolchain.errors import IntegrityError, UsageError
from toolchain.optimize.graph import tidy
from toolchain.optimize.passes import additive_mask, first_row, sequence_first, tied_head
from toolchain.optimize.rewrite import rewritten
from toolchain.optimize.simplify import simplify
from toolchain.optimize.transform import passes

SHAPES = [(1, 1), (1, 2), (2, 1), (1, 40), (3, 9), (5, 17)]
REWRITES = {
    "additive_mask": additive_mask.rewrite,
    "sequence_first": sequence_first.rewrite,
    "first_row": first_row.rewrite,
}


def ops(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def interface(path: Path) -> list[str]:
    graph = onnx.load(path).graph
    return [str(value) for value in (*graph.input, *graph.output)]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", passes.names())
def test_every_pass_keeps_the_signature_and_repeats_to_the_byte(
    name: str, raw: Path, tmp_path: Path
) -> None:
    facts = [passes.get(name)(raw, tmp_path / f"{i}.onnx") for i in range(2)]
    assert facts[0] == facts[1]
    assert facts[0].name == name
    assert facts[0].bytes_after == (tmp_path / "0.onnx").stat().st_size
    assert facts[0].nodes_after == len(onnx.load(tmp_path / "0.onnx").graph.node)
    assert sha256(tmp_path / "0.onnx") == sha256(tmp_path / "1.onnx")
    assert interface(tmp_path / "0.onnx") == interface(raw)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", passes.names())
def test_every_pass_refuses_what_is_not_a_whole_onnx_file(
    name: str, raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    for case, content in {
        "text": b"not a model",
        "empty": b"",
        "cut": raw.read_bytes()[:-100],
        "half": raw.read_bytes()[: raw.stat().st_size // 2],
    }.items():
        (tmp_path / case).write_bytes(content)
        with pytest.raises(UsageError, match=rf"{case}: not a whole ONNX file") as refusal:
            passes.get(name)(tmp_path / case, out)
        assert "\n" not in str(refusal.value)
    with pytest.raises(UsageError, match="no such file"):
        passes.get(name)(tmp_path / "missing.onnx", out)
    onnx.save_model(
        onnx.load(raw),
        tmp_path / "split.onnx",
        save_as_external_data=True,
        location="w",
        size_threshold=0,
    )
    (tmp_path / "w").unlink()
    with pytest.raises(UsageError, match="not a whole ONNX file"):
        passes.get(name)(tmp_path / "split.onnx", out)
    assert not out.exists()


@pytest.mark.parametrize(("rows", "tokens"), SHAPES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_rewrite_keeps_every_answer(
    raw: Path, tmp_path: Path, rows: int, tokens: int, count: int
) -> None:
    chosen = dict(list(REWRITES.items())[:count])
    facts = rewritten(raw, tmp_path / "model.onnx", chosen)
    assert all(fact.changed > 0 for fact in facts)
    inputs = feed(rows, tokens)
    expected = run(raw, inputs)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(run(tmp_path / "model.onnx", inputs), expected, atol=1e-5, rtol=0)


def test_simplifying_again_changes_nothing(simplified: Path, tmp_path: Path) -> None:
    facts = simplify(simplified, tmp_path / "again.onnx")
    assert [fact.changed for fact in facts] == [0, 0, 0, 0]
    assert (tmp_path / "again.onnx").read_bytes() == simplified.read_bytes()


def test_a_file_may_be_simplified_in_place(raw: Path, simplified: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(raw.read_bytes())
    simplify(path, path)
    assert path.read_bytes() == simplified.read_bytes()


def test_only_standard_ops_are_written(simplified: Path) -> None:
    proto = onnx.load(simplified)
    assert {node.domain for node in proto.graph.node} == {""}
    assert [opset.domain for opset in proto.opset_import] == [""]


def test_the_mask_takes_three_nodes(raw: Path, tmp_path: Path) -> None:
    facts = passes.get("additive_mask")(raw, tmp_path / "model.onnx")
    found = ops(tmp_path / "model.onnx")
    assert (facts.changed, found["Where"], found["Unsqueeze"]) == (1, 1, 1)
    assert not {"GatherND", "Range", "And", "Expand", "Sub"} & set(found)


def test_a_mask_with_a_window_is_left_alone(raw: Path, tmp_path: Path) -> None:
    proto = onnx.load(raw)
    softmax = next(node for node in proto.graph.node if node.op_type == "Softmax")
    add = next(node for node in proto.graph.node if softmax.input[0] in node.output)
    held = {tensor.name for tensor in proto.graph.initializer}
    made = {node.output[0]: node for node in proto.graph.node}
    mask = next(n for n in add.input if n not in held and made[n].op_type not in ("Mul", "MatMul"))
    constants = {
        "w_one": np.int64(1),
        "w_zero": np.int64(0),
        "w_far": np.int64(512),
        "w_open": np.float32(0),
        "w_shut": np.float32(np.finfo(np.float32).min),
        "w_axis": np.array([1], dtype=np.int64),
    }
    band = [
        helper.make_node("Shape", ["attention_mask"], ["w_shape"]),
        helper.make_node("Gather", ["w_shape", "w_one"], ["w_tokens"]),
        helper.make_node("Range", ["w_zero", "w_tokens", "w_one"], ["w_keys"]),
        helper.make_node("Unsqueeze", ["w_keys", "w_axis"], ["w_queries"]),
        helper.make_node("Sub", ["w_keys", "w_queries"], ["w_apart"]),
        helper.make_node("Abs", ["w_apart"], ["w_distance"]),
        helper.make_node("Less", ["w_distance", "w_far"], ["w_near"]),
        helper.make_node("Where", ["w_near", "w_open", "w_shut"], ["w_band"]),
        helper.make_node("Min", [mask, "w_band"], ["w_mask"]),
    ]
    nodes = list(proto.graph.node)
    at = 1 + max(i for i, node in enumerate(nodes) if mask in node.output)
    for node in nodes:
        node.input[:] = ["w_mask" if name == mask else name for name in node.input]
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes[:at], *band, *nodes[at:]])
    proto.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    onnx.save(proto, tmp_path / "windowed.onnx")

    facts = simplify(tmp_path / "windowed.onnx", tmp_path / "out.onnx")
    assert [fact.changed for fact in facts] == [0, 0, 0, 0]
    assert interface(tmp_path / "out.onnx") == interface(raw)


def test_heads_are_read_as_they_lie(raw: Path, simplified: Path) -> None:
    def turns(path: Path) -> set[tuple[int, ...]]:
        nodes = [node for node in onnx.load(path).graph.node if node.op_type == "Transpose"]
        return {tuple(node.attribute[0].ints) for node in nodes}

    assert turns(raw) == {(0, 2, 1, 3), (0, 2, 3, 1)}
    assert turns(simplified) == {(1, 0, 2), (1, 2, 0)}


def test_the_last_block_sees_one_row_per_text(simplified: Path) -> None:
    proto = onnx.load(simplified)
    gelus = [node.output[0] for node in proto.graph.node if node.op_type == "Gelu"]
    softmaxes = [node.output[0] for node in proto.graph.node if node.op_type == "Softmax"]
    watched = [*gelus, *softmaxes]
    proto.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in watched
    )
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    shapes = [found.shape for found in session.run(watched, feed(2, 7))]
    assert shapes[:3] == [(14, 48), (14, 48), (2, 48)]
    assert shapes[3:] == [(8, 7, 7), (8, 7, 7), (8, 1, 7)]


def test_a_head_that_reads_every_token_keeps_every_row(raw: Path, tmp_path: Path) -> None:
    proto = onnx.load(raw)
    (select,) = [
        node
        for node in proto.graph.node
        if node.op_type == "Gather" and any(a.name == "axis" and a.i == 1 for a in node.attribute)
    ]
    pooled = select.output[0]
    select.CopyFrom(
        helper.make_node("ReduceMean", [select.input[0], "m_axes"], [pooled], keepdims=0)
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "m_axes"))
    onnx.save(proto, tmp_path / "mean.onnx")
    facts = simplify(tmp_path / "mean.onnx", tmp_path / "out.onnx")
    assert [fact.changed for fact in facts] == [1, 0, 0, 0]
    inputs = feed(2, 9)
    expected = run(tmp_path / "mean.onnx", inputs)
    np.testing.assert_allclose(run(tmp_path / "out.onnx", inputs), expected, atol=1e-5)


def test_a_rewrite_that_changes_an_answer_writes_nothing(raw: Path, tmp_path: Path) -> None:
    def drop_a_scale(model: object) -> int:
        (scale, *_) = [node for node in model.graph if node.op_type == "Mul"]  # type: ignore[attr-defined]
        scale.outputs[0].replace_all_uses_with(scale.inputs[0])
        return 1

    with pytest.raises(IntegrityError, match="rewriting moved the outputs by"):
        rewritten(raw, tmp_path / "out.onnx", {"drop_a_scale": drop_a_scale})
    assert list(tmp_path.iterdir()) == []


def test_the_numbers_of_weights_are_not_copied_to_know_their_shapes(raw: Path) -> None:
    # In a model beyond 2 GB each copy is seconds of it.
    model = ir.load(raw)
    copied: list[str] = []
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.size > 100:
            copy = partial(_noted, copied, name, tensor)
            value.const_value = ir.LazyTensor(copy, dtype=tensor.dtype, shape=tensor.shape)
    changed = []
    for rewrite in (*REWRITES.values(), tied_head.rewrite):
        changed.append(rewrite(model))
        tidy(model)
    assert changed == [1, 3, 1, 0]
    assert copied == []


def _noted(copied: list[str], name: str, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    copied.append(name)
    return tensor
