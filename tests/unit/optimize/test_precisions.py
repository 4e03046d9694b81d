"""What every precision keeps: inputs, outputs, equal bytes twice, never twice, one sentence."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tests.unit.optimize.conftest import feed, run, texts
from toolchain.errors import UsageError
from toolchain.onnx_file import read_model, write_model
from toolchain.onnx_pair import ONE_FILE, data_of
from toolchain.optimize.precision import precisions

NAMES = precisions.names()
# The largest loss of direction that such a tiny random model may show.
CLOSE = {"fp16": 0.9999, "int4_weights": 0.9}


@pytest.fixture(scope="module")
def files(simplified: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny classifier in every precision."""
    folder = tmp_path_factory.mktemp("precisions")
    made = {name: folder / f"{name}.onnx" for name in NAMES}
    for name, path in made.items():
        precisions.get(name).write(simplified, path, texts(40))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_smaller_valid_and_close(
    name: str, simplified: Path, files: dict[str, Path]
) -> None:
    # What int8 harms most may stay in fp32.
    part = 0.95 if name == "int8_mixed" else 0.55
    assert files[name].stat().st_size < part * simplified.stat().st_size
    onnx.checker.check_model(onnx.load(files[name]))
    inputs = feed(4, 13)
    expected, found = run(simplified, inputs), run(files[name], inputs)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    cosine = np.vdot(expected, found) / np.linalg.norm(expected) / np.linalg.norm(found)
    assert cosine > CLOSE.get(name, 0.99)
    assert not np.array_equal(expected, found)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_and_outputs_stay(name: str, simplified: Path, files: dict[str, Path]) -> None:
    before, after = onnx.load(simplified).graph, onnx.load(files[name]).graph
    assert [v.SerializeToString() for v in before.input] == [
        v.SerializeToString() for v in after.input
    ]
    assert [v.SerializeToString() for v in before.output] == [
        v.SerializeToString() for v in after.output
    ]


@pytest.mark.parametrize("name", NAMES)
def test_equal_sources_give_equal_bytes(
    name: str, simplified: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    precisions.get(name).write(simplified, tmp_path / "again.onnx", texts(40))
    assert (tmp_path / "again.onnx").read_bytes() == files[name].read_bytes()


@pytest.mark.parametrize("second", NAMES)
def test_quantising_twice_is_refused(second: str, files: dict[str, Path], tmp_path: Path) -> None:
    for path in files.values():
        with pytest.raises(UsageError, match="quantising twice: the graph already holds"):
            precisions.get(second).write(path, tmp_path / "out.onnx", texts(4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_a_whole_model_is_refused_in_one_sentence(
    name: str, simplified: Path, tmp_path: Path
) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])
    foreign = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [result])
    onnx.save(helper.make_model(foreign, ir_version=8), tmp_path / "relu.onnx")
    (tmp_path / "cut.onnx").write_bytes(simplified.read_bytes()[:-100])
    (tmp_path / "text.onnx").write_bytes(b"not a model")
    for file, reason in {
        "relu": "holds no matrix product",
        "cut": "not a whole ONNX file",
        "text": "not a whole ONNX file",
        "missing": "no such file",
    }.items():
        with pytest.raises(UsageError, match=reason) as refusal:
            precisions.get(name).write(tmp_path / f"{file}.onnx", tmp_path / "out.onnx", texts(4))
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("name", [n for n in NAMES if precisions.get(n).calibrated])
def test_texts_are_asked_for_and_few_are_told_about(
    name: str, simplified: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    with pytest.raises(UsageError, match="expected 2 or more, found none"):
        precisions.get(name).write(simplified, out)
    with pytest.raises(UsageError, match="found one, which leaves none to judge by"):
        precisions.get(name).write(simplified, out, texts(1))
    assert not out.exists()
    notes = precisions.get(name).write(simplified, out, texts(6)).notes
    assert "calibrated on 6 texts only" in notes[-1]
    assert "cosine" in notes[0]


@pytest.mark.parametrize("name", ["fp16", "int8", "int8_weights"])
def test_weights_beside_the_file_are_read(name: str, simplified: Path, tmp_path: Path) -> None:
    beside, out = tmp_path / "split.onnx", tmp_path / "out.onnx"
    onnx.save_model(
        onnx.load(simplified), beside, save_as_external_data=True, location="w", size_threshold=0
    )
    precisions.get(name).write(beside, out)
    whole = tmp_path / "whole.onnx"
    precisions.get(name).write(simplified, whole)
    inputs = feed(2, 7)
    np.testing.assert_array_equal(run(out, inputs), run(whole, inputs))
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:-200])
    with pytest.raises(UsageError, match="not a whole ONNX file"):
        precisions.get(name).write(beside, out)


def test_every_precision_of_a_model_in_two_files_is_that_of_one(
    files: dict[str, Path], simplified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sessions that precisions open to look at texts go through files then, too.
    monkeypatch.setenv(ONE_FILE, "10000")
    beside = tmp_path / "beside.onnx"
    write_model(read_model(simplified), beside)
    assert data_of(beside).is_file()
    inputs = feed(2, 7)
    for name, whole in files.items():
        out = tmp_path / f"{name}.onnx"
        precision = precisions.get(name)
        precision.write(beside, out, texts(40) if precision.calibrated else ())
        assert data_of(out).is_file(), name
        np.testing.assert_array_equal(run(out, inputs), run(whole, inputs), err_msg=name)


def test_an_operator_that_the_runtime_lacks_is_named(
    files: dict[str, Path], tmp_path: Path
) -> None:
    from toolchain.runtimes.runtime import runtimes

    proto = onnx.load(files["int8_weights"])
    next(n for n in proto.graph.node if n.op_type == "MatMulNBits").op_type = "MatMulOfTomorrow"
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(UsageError, match=rf"onnxruntime {ort.__version__} cannot run it.*Tomorrow"):
        runtimes.get("onnxruntime")(
            tmp_path / "model.onnx", threads=1, provider="CPUExecutionProvider"
        )
