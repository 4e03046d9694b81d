"""Names are module names; a third party's come from entry points; listing imports nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.distill.term import find_method, methods
from toolchain.errors import UsageError
from toolchain.target import load_target, target_names


def test_every_method_is_found_by_its_module_name() -> None:
    assert {"kd", "pkd", "tinybert", "minilm_v2", "finetune"} <= set(methods.names())
    for name in methods.names():
        assert find_method(name).method_name == name


def test_an_unknown_name_offers_its_neighbour_and_the_list() -> None:
    with pytest.raises(UsageError) as refusal:
        methods.get("minilmv2")
    assert "did you mean 'minilm_v2'?" in str(refusal.value)
    assert "tinybert" in str(refusal.value)


def test_a_package_adds_a_method_through_an_entry_point(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(
        '"""Theirs: labels counted twice."""\n'
        "from dataclasses import dataclass\n"
        "from toolchain.distill.methods.finetune import FineTune\n"
        "from toolchain.distill.term import method\n"
        '@method("twice")\n'
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Twice(FineTune):\n"
        '    """L = CE."""\n'
    )
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[toolchain.methods]\ntwice = theirs\n")
    code = "from toolchain.__main__ import main; main(['methods', 'show', 'twice'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Theirs: labels counted twice." in done.stdout


@pytest.mark.parametrize("name", target_names())
def test_every_shipped_target_loads_and_takes_something(name: str) -> None:
    target = load_target(name)
    best = target.accepts.precisions[0]
    assert target.why_not(format="onnx", precision=best, opset=17, file_bytes=1) == []
    assert target.kind in ("server", "iot", "mobile", "browser")


def test_a_target_says_why_it_cannot_take_a_model() -> None:
    target = load_target("raspberry-pi-4")
    reasons = target.why_not(format="tflite", precision="fp16", opset=99, file_bytes=1 << 40)
    assert len(reasons) == 4


def test_a_profile_of_ones_own_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: other\nsummary: x\n")
    with pytest.raises(UsageError, match="'fidelity' is missing"):
        load_target(str(path))


def test_the_machine_of_the_run_takes_what_its_own_memory_bears() -> None:
    here, there = (
        load_target(name).why_not(
            format="onnx", precision="fp32", opset=17, file_bytes=3_000_000_000
        )
        for name in ("host", "raspberry-pi-4")
    )
    assert here == []
    assert any("larger than the memory" in reason for reason in there)
