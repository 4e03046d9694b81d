"""A format of somebody else's package, found through the entry-point group toolchain.exporters."""

import json
import sys
from pathlib import Path

import pytest

from toolchain.__main__ import main
from toolchain.bundle.check import selftest
from toolchain.errors import UsageError
from toolchain.export.exporter import exporters
from toolchain.report.report import Report

PACKAGE = '''"""Acme: our ONNX file, signed by acme."""

import onnx

from toolchain.export.exporter import Exporter, Signature


def _write(source, out, precision):
    proto = onnx.load(source.onnx)
    proto.producer_name = "acme"
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, out)
    return Signature(
        inputs=tuple(v.name for v in proto.graph.input),
        outputs=tuple(v.name for v in proto.graph.output),
        opset=20,
        dynamic_axes={},
    )


exporter = Exporter(
    runtime="onnxruntime",
    write=_write,
    files={"fp32": "acme/model.onnx"},
    packages=PACKAGES,
    engine="onnx",
    tasks=("classify",),
)
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as pip would install it; the folder it lies in."""
    site = tmp_path / "site"
    info = site / "acme_format-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-format\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[toolchain.exporters]\nacme = acme_format\n")
    (site / "acme_format.py").write_text(PACKAGE.replace("PACKAGES", '("onnx",)'))
    monkeypatch.syspath_prepend(str(site))
    # What a process has imported it knows until its end: each test has a package of its own.
    exporters._loaded.pop("acme", None)
    sys.modules.pop("acme_format", None)
    return site


@pytest.mark.usefixtures("plugin")
def test_it_is_proved_timed_and_bundled_like_any_other(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    output, target = tmp_path / "build", tmp_path / "acme.yaml"
    target.write_text(
        "name: acme\nsummary: a test's machine\nfidelity: none\n"
        "runtime: {name: onnxruntime, threads: 1}\n"
        "accepts: {formats: [acme], precisions: [fp32]}\n"
        "budget: {memory_bytes: 1000000000}\n"
    )
    arguments = [
        "compress", "--teacher", str(teacher_folder), "--data", str(task_folder), "--layers", "1",
        "--target", "host", "--target", str(target), "--no-baseline", "-o", str(output),
        "--max-steps", "20", "threads=1", "benchmark.min_seconds=0.05", "benchmark.min_runs=20",
        "benchmark.rounds=2", "benchmark.tokens=[8]", "formats=[auto]", "precisions=[fp32]",
    ]  # fmt: skip
    assert main(arguments) == 0
    report = Report.from_json(json.loads((output / "report" / "report.json").read_text()))
    model = report.model("student-acme-fp32")
    assert model.parity is not None
    assert model.parity.against == "student"
    assert {entry.runtime for entry in model.latency} == {"onnxruntime"}
    assert (output / "acme" / "model.onnx").is_file()
    assert selftest(output / "bundles" / "acme") == []


def test_one_that_is_installed_without_what_it_needs_is_refused_by_name(
    plugin: Path, teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (plugin / "acme_format.py").write_text(PACKAGE.replace("PACKAGES", '("acme_runtime.kernels",)'))
    words = ["export", str(teacher_folder), "--format", "acme", "-o", str(tmp_path / "out")]
    assert main(words) == 2
    assert "format acme needs acme_runtime.kernels, not installed here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_optimums_is_there_by_name_and_says_where_it_can_be_used() -> None:
    optimum = exporters.get("optimum")
    if not optimum.missing():
        pytest.skip("optimum-onnx is installed: tests/compat uses it")
    with pytest.raises(UsageError, match="format optimum needs optimum") as refusal:
        optimum.check_installed("optimum")
    assert "constraints-compat.txt 'toolchain[optimum]'" in (refusal.value.hint or "")
