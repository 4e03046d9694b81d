"""ONNX files that cannot be used, through the commands: one sentence, the right exit code, no work.

Unit tests of precisions, passes, runtimes and bundles have the finer cases.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolchain.__main__ import main

FILE = "onnx/model.onnx"


@pytest.fixture(scope="module")
def exported(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "exported"
    assert main(["export", str(teacher_folder), "-o", str(out)]) == 0
    return out


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of an exported folder as if somebody else had made it: no manifest tells of damage."""
    made = Path(shutil.copytree(exported, tmp_path / "model"))
    (made / "manifest.json").unlink()
    return made


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def text(path: Path) -> None:
    path.write_text("<html>404: not found</html>")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def of_pixels(path: Path) -> None:
    """Write a model that is whole, and for pictures."""
    weights = np.ones((3, 4), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["pixels", "weights"], ["classes"])],
        "pictures",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["rows", 4])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )


def of_tomorrow(path: Path) -> None:
    """Write the model with an operator that no runtime has."""
    proto = onnx.load(path)
    node = next(n for n in proto.graph.node if n.op_type == "Softmax")
    node.op_type, node.domain = "SoftmaxOfTomorrow", "com.example"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(proto, path)


CASES: list[tuple[str, Callable[[Path], None], list[str], int, str]] = [
    ("cut", cut, ["quantize"], 2, "not a whole ONNX file"),
    ("cut", cut, ["verify"], 2, "not an ONNX file"),
    ("cut", cut, ["bundle"], 2, "not an ONNX file"),
    ("text", text, ["quantize"], 2, "not a whole ONNX file"),
    ("text", text, ["benchmark"], 2, "not an ONNX file"),
    ("empty", empty, ["quantize"], 2, "not a whole ONNX file"),
    ("empty", empty, ["verify"], 4, "not a whole ONNX model"),
    ("pixels", of_pixels, ["verify"], 2, "input 'pixels' is tensor(float)"),
    ("pixels", of_pixels, ["bundle"], 2, "takes pixels, expected int64 inputs of input_ids"),
    ("tomorrow", of_tomorrow, ["verify"], 2, "cannot run it: "),
    ("tomorrow", of_tomorrow, ["benchmark"], 2, "SoftmaxOfTomorrow"),
    ("tomorrow", of_tomorrow, ["bundle"], 4, "SoftmaxOfTomorrow"),
]


@pytest.mark.parametrize(
    ("damage", "command", "code", "sentence"),
    [case[1:] for case in CASES],
    ids=[f"{case[0]}-{case[2][0]}" for case in CASES],
)
def test_a_file_that_cannot_be_used_is_refused(
    damage: Callable[[Path], None],
    command: list[str],
    code: int,
    sentence: str,
    exported: Path,
    folder: Path,
    task_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(folder / FILE)
    out, data = tmp_path / "out", ["--data", str(task_folder)]
    more = {
        "quantize": [],
        "verify": ["--against", str(exported), *data],
        "bundle": data,
        "benchmark": [*data, "--seconds", "0.05"],
    }
    words = [*command, str(folder), *more[command[0]], "-o", str(out)]
    found = main(words)
    said = " ".join(capsys.readouterr().err.split())
    assert (found, sentence in said) == (code, True), said
    assert "Traceback" not in said
    assert not out.exists()


def test_one_changed_byte_in_a_file_of_ours_is_found(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Path(shutil.copytree(exported, tmp_path / "model"))
    raw = bytearray((made / FILE).read_bytes())
    raw[-5] ^= 1
    (made / FILE).write_bytes(bytes(raw))
    assert main(["quantize", str(made), "-o", str(tmp_path / "out")]) == 4
    assert "is not the recorded" in capsys.readouterr().err


def test_quantising_twice_is_refused(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert main(["quantize", str(exported), "-o", str(once)]) == 0
    assert main(["quantize", str(once), "-o", str(twice)]) == 2
    assert "quantising twice: it holds int8" in capsys.readouterr().err
    # Nor where the small file bears the name of the large one.
    (once / "onnx" / "model_quantized.onnx").rename(once / FILE)
    (once / "manifest.json").unlink()
    assert main(["quantize", str(once), "--precision", "fp16", "-o", str(twice)]) == 2
    assert "quantising twice: the graph already holds" in capsys.readouterr().err
    assert not twice.exists()
