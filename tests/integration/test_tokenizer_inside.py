"""The tokenizer inside the graph, asked for as a user asks: one more file, said so everywhere."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.unit.export.test_tokenizer import byte_level
from toolchain.__main__ import main
from toolchain.artifact import Artifact, drafting
from toolchain.errors import UsageError
from toolchain.export.extensions import check_extensions
from toolchain.steps.inside import TEXT_FILE, put_beside_or_inside, said_of, text_model

pytest.importorskip("onnxruntime_extensions", reason="the extra [extensions] is not installed")

QUICK = [
    "benchmark.min_seconds=0.02", "benchmark.min_runs=10", "benchmark.rounds=2",
    "benchmark.tokens=[8]", "threads=1", "baseline=false", "max_steps=2", "precisions=[fp32]",
]  # fmt: skip


@pytest.fixture(scope="module")
def build(
    teacher_folder: Path, task_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("run") / "build"
    command = ["compress", "--teacher", str(teacher_folder), "--data", str(task_folder)]
    command += ["--layers", "2", "-o", str(output), *QUICK, "tokenizer=inside"]
    assert main(command) == 0
    return output


def test_a_run_publishes_the_file_and_says_so(build: Path) -> None:
    assert (build / TEXT_FILE).is_file()
    report = json.loads((build / "report" / "report.json").read_text(encoding="utf-8"))
    said = [reason for reason in report["plan"]["reasons"] if "tokenizer inside" in reason]
    assert len(said) == 1
    assert "equal tokens on 96 rows of dev" in said[0]


def test_the_bundle_holds_it_and_its_readme_runs(build: Path) -> None:
    bundle = build / "bundles" / "host"
    assert "text_model.onnx" in Artifact.open(bundle).files
    readme = (bundle / "README.md").read_text(encoding="utf-8")
    code = readme.split("```python\nimport numpy")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import numpy{code}"],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=True,
    )
    text = subprocess.run(
        [sys.executable, "classify.py", "a text"], cwd=bundle, capture_output=True, text=True
    )
    assert text.stdout.split("\t")[0] in done.stdout


def test_export_takes_it_too(teacher_folder: Path, task_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "exported"
    command = ["export", str(teacher_folder), "-o", str(output), "--tokenizer", "inside"]
    assert main([*command, "--data", str(task_folder)]) == 0
    from toolchain.export.inside import open_text

    session = open_text(output / TEXT_FILE)
    logits, label = session.run(None, {"text": np.array(["turn the lamp on"], dtype=object)})
    assert label[0] == ("heat", "light", "music")[int(logits.argmax())]
    # It must not be taken for a precision of the model.
    assert main(["quantize", str(output), "-o", str(tmp_path / "int8")]) == 0


def test_a_tokenizer_that_cannot_go_in_stays_beside(build: Path, tmp_path: Path) -> None:
    with drafting(tmp_path / "done", {}) as draft:
        put_beside_or_inside(
            draft,
            model=build / "onnx" / "model.onnx",
            tokenizer=byte_level(tmp_path / "bpe"),
            rows=[("a text",)],
            labels=(),
            max_tokens=24,
        )
    artifact = Artifact.open(tmp_path / "done")
    assert text_model(artifact) is None
    assert said_of(artifact, "student-int8") == (
        "the tokenizer of student-int8 stays beside it: its tokenizer cuts words by BPE, not "
        "WordPiece"
    )


def test_what_cannot_be_had_is_refused_at_once(
    teacher_folder: Path, task_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "text"
    raw.mkdir()
    for name in ("train", "dev"):
        (raw / f"{name}.txt").write_text("turn the lamp on\nmore heat\n" * 8, encoding="utf-8")
    command = ["compress", "--teacher", str(teacher_folder), "--layers", "2", "--dry-run"]
    more = ["--data", str(raw), "data.task=mask_lm", "tokenizer=inside"]
    assert main([*command, "-o", str(tmp_path / "b"), *more]) == 2
    assert "answers token by token" in capsys.readouterr().err
    assert main(["export", str(teacher_folder), "--data", str(task_folder)]) == 2
    assert "--data is not read by this export" in capsys.readouterr().err


def test_without_the_extra_it_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"toolchain\[extensions\]"):
        check_extensions()
