"""int8 overflows on x86 with AVX2 and no VNNI; its 7-bit sister does not, and the gates tell.

Such a CPU is emulated: `qemu-x86_64 -cpu Haswell-noTSX`, Debian's package qemu-user, 7.2 or newer.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from toolchain.optimize.precisions import int8, int8_reduced
from toolchain.recipe import Gates
from toolchain.target import load_target
from toolchain.verify import gates
from toolchain.verify.parity import compare

QEMU = shutil.which("qemu-x86_64")
EMULATED = [str(QEMU), "-cpu", "Haswell-noTSX", sys.executable]

ANSWERS = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
answers = []
for line in open(sys.argv[2], encoding="utf-8"):
    ids = np.array([json.loads(line)], dtype=np.int64)
    feed = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
    answers.append(session.run(["logits"], feed)[0][0].tolist())
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def overflowing(workshop: Any) -> Path:
    """A classifier whose hidden state is all positive and whose first outcome adds all of it."""
    path = workshop.save_model("overflowing")
    model = onnx.load(path)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    words = onnx.numpy_helper.to_array(held["words"])
    matrix = np.ones((words.shape[1], 2), dtype=np.float32)
    matrix[1:, 1] = 0.55
    for name, value in {"words": 1 + np.abs(words) / 10, "matrix": matrix}.items():
        held[name].CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    onnx.save(model, path)
    return Path(path)


def test_weights_of_seven_bits_cannot_overflow(overflowing: Path, tmp_path: Path) -> None:
    facts = int8_reduced.write(overflowing, tmp_path / "reduced.onnx")
    int8.write(overflowing, tmp_path / "int8.onnx")
    assert facts.name == "int8_reduced"
    largest = {}
    for name in ("reduced", "int8"):
        tensors = onnx.load(tmp_path / f"{name}.onnx").graph.initializer
        (weights,) = (
            onnx.numpy_helper.to_array(t) for t in tensors if t.name == "matrix_quantized"
        )
        largest[name] = int(np.abs(weights.astype(int)).max())
    assert 2 * 255 * largest["reduced"] <= 2**15 - 1 < 2 * 255 * largest["int8"]


def test_the_target_without_vnni_takes_only_what_cannot_overflow() -> None:
    target = load_target("x86-avx2")
    assert target.kind == "server"
    asked = {"format": "onnx", "opset": 20, "file_bytes": 1000}
    assert target.why_not(precision="int8", **asked)
    assert not target.why_not(precision="int8_reduced", **asked)


@pytest.mark.slow
@pytest.mark.skipif(QEMU is None, reason="no qemu-x86_64 here (Debian's package qemu-user)")
@pytest.mark.timeout(1800)
def test_an_emulated_cpu_without_vnni_overflows_and_the_gates_tell(
    workshop: Any, overflowing: Path, tmp_path: Path
) -> None:
    rows = np.random.default_rng(0).integers(5, 40, (32, 12)).tolist()
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (tmp_path / "answers.py").write_text(ANSWERS, encoding="utf-8")

    def logits(model: Path, *python: str) -> np.ndarray:
        command = [*python, str(tmp_path / "answers.py"), str(model), str(lines)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return np.array(json.loads(done.stdout), dtype=np.float32)

    expected = logits(overflowing, sys.executable)
    passed, tested = {}, {}
    for name, precision in (("int8", int8), ("int8_reduced", int8_reduced)):
        model = tmp_path / f"{name}.onnx"
        precision.write(overflowing, model)
        for cpu, python in (("here", [sys.executable]), ("emulated", EMULATED)):
            parity = compare(logits(model, *python), expected, against="fp32", task="classify")
            passed[name, cpu] = gates.cosine(parity, Gates(), model=name).passed
        # As its user would find out: the self-test of a bundle that was made on another CPU.
        target = load_target("x86-avx2") if name == "int8_reduced" else load_target("host")
        bundle = workshop.make(f"overflow-{name}", model=model, precision=name, target=target)
        command = [*EMULATED, "-I", str(bundle / "selftest.py"), "--json"]
        tested[name] = subprocess.run(command, capture_output=True, text=True).returncode
    assert passed["int8_reduced", "here"]
    assert passed["int8_reduced", "emulated"]
    assert passed["int8", "emulated"] is False
    assert tested == {"int8": 4, "int8_reduced": 0}
    # Not asserted where this very machine is such a CPU.
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    if "avx512_vnni" in flags or "avx_vnni" in flags:
        assert passed["int8", "here"]
