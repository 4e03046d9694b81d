"""Models beyond one file: the graph, its weights beside it, and what holds the two together."""

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolchain.errors import IntegrityError, UsageError
from toolchain.onnx_file import bare, check_weights, read_model, size_of, write_model
from toolchain.onnx_pair import ONE_FILE, bytes_of, data_of, one_file_bytes


def model() -> onnx.ModelProto:
    """A product and a sum: 4800 bytes of weights, 1200 of bias, and a shape of 16."""
    generator = np.random.default_rng(0)
    held = {
        "weights": generator.standard_normal((4, 300)).astype(np.float32),
        "bias": generator.standard_normal(300).astype(np.float32),
        "shape": np.array([-1, 300]),
    }
    nodes = [
        helper.make_node("MatMul", ["given", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Reshape", ["sum", "shape"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("given", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 300])],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    made.metadata_props.add(key="maker", value="a test")
    return made


def answer(path: Path) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"given": np.ones((2, 4), np.float32)})[0])


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model as two files."""
    monkeypatch.setenv(ONE_FILE, "5000")
    path = tmp_path / "model.onnx"
    write_model(model(), path)
    return path


def test_a_model_within_the_limit_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    data_of(path).write_bytes(b"of an older, larger model")
    write_model(model(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert bytes_of(path) == size_of(model()) == path.stat().st_size
    assert onnx.load(path) == model()


def test_beyond_it_weights_lie_beside_the_graph_and_small_tensors_in_it(pair: Path) -> None:
    assert sorted(file.name for file in pair.parent.iterdir()) == ["model.onnx", "model.onnx_data"]
    graph = onnx.load(pair, load_external_data=False)
    places = {t.name: {e.key: e.value for e in t.external_data} for t in graph.graph.initializer}
    assert places == {
        "weights": {"location": "model.onnx_data", "offset": "0", "length": "4800"},
        "bias": {"location": "model.onnx_data", "offset": "4800", "length": "1200"},
        "shape": {},
    }
    assert bytes_of(pair) == pair.stat().st_size + 6000


def test_both_are_read_back_as_the_model_and_answer_like_it(pair: Path, tmp_path: Path) -> None:
    assert read_model(pair) == model()
    whole = tmp_path / "whole.onnx"
    onnx.save(model(), whole)
    np.testing.assert_array_equal(answer(pair), answer(whole))


def test_equal_models_give_equal_bytes_and_read_ones_the_same(pair: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    again = tmp_path / "again" / "model.onnx"
    write_model(read_model(pair), again)
    for first, second in ((pair, again), (data_of(pair), data_of(again))):
        assert first.read_bytes() == second.read_bytes()


def test_weights_are_not_copied_to_tell_what_lies_around_them() -> None:
    large = model()
    array = np.zeros((1000, 1000), np.float32)
    large.graph.initializer.append(numpy_helper.from_array(array, "table"))
    bare(large)
    tracemalloc.start()
    graph = bare(large)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < array.nbytes / 100
    assert list(graph.graph.initializer[-1].dims) == [1000, 1000]


def test_large_tensors_begin_where_a_page_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ONE_FILE, "5000")
    made, path = model(), tmp_path / "model.onnx"
    table = np.zeros((2**18, 1), np.float32)
    made.graph.initializer.insert(1, numpy_helper.from_array(table, "table"))
    write_model(made, path)
    graph = onnx.load(path, load_external_data=False)
    offsets = [
        int(entry.value)
        for tensor in graph.graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    ]
    assert offsets == [0, 8192, 8192 + 2**20]
    assert read_model(path) == made


def test_the_digest_of_the_graph_stands_for_the_weights(pair: Path) -> None:
    graph = onnx.load(pair, load_external_data=False)
    assert check_weights(pair, graph) == data_of(pair)
    data = data_of(pair)
    data.write_bytes(data.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match=r"not the weights that model\.onnx was written with"):
        check_weights(pair, graph)
    data.unlink()
    with pytest.raises(IntegrityError, match=r"its weights, model\.onnx_data, are missing"):
        check_weights(pair, graph)


def test_one_file_has_no_weights_to_check(tmp_path: Path) -> None:
    assert check_weights(tmp_path / "model.onnx", model()) is None


@pytest.mark.parametrize("left", [None, 0, 5990])
def test_weights_that_are_cut_or_gone_are_not_read(pair: Path, left: int | None) -> None:
    data = data_of(pair)
    content = data.read_bytes()
    data.unlink()
    if left is not None:
        data.write_bytes(content[:left])
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        read_model(pair)


@pytest.mark.parametrize("left", [None, 0, 5990])
def test_nor_are_those_that_no_digest_tells_of(tmp_path: Path, left: int | None) -> None:
    path, weights = tmp_path / "model.onnx", tmp_path / "w"
    onnx.save(model(), path, save_as_external_data=True, location="w")
    assert read_model(path) == model()
    content = weights.read_bytes()
    weights.unlink()
    if left is not None:
        weights.write_bytes(content[:left])
    with pytest.raises(UsageError, match=r"model\.onnx: not a whole ONNX file") as refusal:
        read_model(path)
    assert "\n" not in refusal.value.message


def test_weights_outside_the_folder_are_not_opened(pair: Path) -> None:
    graph = onnx.load(pair, load_external_data=False)
    inner = pair.parent / "inner"
    inner.mkdir()
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../model.onnx_data"
    del graph.metadata_props[:]
    (inner / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(UsageError, match="not a whole ONNX file"):
        read_model(inner / "model.onnx")


def test_a_write_cut_off_leaves_no_graph_beside_weights_of_another(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = model()
    other.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.ones((4, 300), np.float32), "weights")
    )

    def full(path: Path, data: bytes | str) -> None:
        raise OSError(f"{path}: no room for {len(data)} bytes")

    monkeypatch.setattr("toolchain.onnx_file.write_atomic", full)
    with pytest.raises(OSError, match="no room"):
        write_model(other, pair)
    assert [file.name for file in pair.parent.iterdir()] == ["model.onnx_data"]


@pytest.mark.parametrize("asked", ["many", "-1", "2147483647", "1e6", "²"])
def test_a_limit_that_is_none_is_refused(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ONE_FILE, asked)
    with pytest.raises(UsageError, match="expected a number of bytes up to 2130706432"):
        one_file_bytes()
