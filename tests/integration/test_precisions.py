"""`--precision auto`: all that a target takes is made, proved, timed, reported; the best ships."""

import json
from pathlib import Path

import pytest

from tests.integration.test_compress import QUICK
from toolchain.__main__ import main
from toolchain.optimize.precision import precisions
from toolchain.report.report import Report
from toolchain.target import load_target

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(
    teacher_folder: Path, task_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Report:
    output = tmp_path_factory.mktemp("auto") / "build"
    words = ["compress", "--teacher", str(teacher_folder), "--data", str(task_folder)]
    words += ["--layers", "2", "--target", "host", "--precision", "auto", "-o", str(output)]
    # The teacher is untrained and so small that int8 may move its answers: the gates are wide.
    loose = ["gates.agreement=0.1", "gates.cosine=0.8", "gates.max_drop=0.5", "train.epochs=1"]
    quick = [word for word in QUICK if not word.startswith("finetune")]
    code = main([*words, *quick, *loose])
    # 3: nothing is faster than fp32 in a model this small, and fp32 ships.
    assert code in (0, 3)
    return Report.from_json(json.loads((output / "report" / "report.json").read_text()))


def test_every_precision_of_the_target_is_made_proved_and_timed(report: Report) -> None:
    # What other formats alone are written in has no file here.
    names = [name for name in load_target("host").accepts.precisions if name in precisions.names()]
    assert len(names) > 5
    whole = report.model("student-onnx")
    for name in names:
        model = report.model(f"student-{name}")
        assert model.precision == name
        assert model.parity is not None
        assert model.parity.rows == 96
        assert model.parity.against == "student-onnx"
        assert model.latency, name
        assert model.file_bytes is not None
        assert whole.file_bytes is not None
        assert model.file_bytes < whole.file_bytes


def test_what_ships_is_the_fastest_that_passes(report: Report) -> None:
    def p50(name: str) -> float:
        (entry,) = (e for e in report.model(name).latency if e.tokens == "task")
        assert entry.p50_ms is not None
        return entry.p50_ms

    failed = {gate.model for gate in report.gates if gate.passed is False}
    students = [m.name for m in report.models if m.role == "student" and m.format == "onnx"]
    passing = [name for name in students if name not in failed]
    (shipped,) = report.shipped.values()
    assert shipped is not None
    assert shipped.model == min(passing, key=p50)
