import shlex
from pathlib import Path

import pytest

from toolchain.demo import __main__ as demo
from toolchain.demo import encoder
from toolchain.errors import StepError


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that the demo runs, kept instead of run: a real run takes minutes."""
    kept: list[list[str]] = []

    def keep(command: list[str]) -> int:
        kept.append(command)
        return 3

    monkeypatch.setattr(demo, "toolchain", keep)
    return kept


def test_the_command_is_shown_run_and_answers_for_the_exit_code(
    tmp_path: Path,
    commands: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(encoder, "fetch", lambda folder: folder)
    assert demo.main(["-o", str(tmp_path / "out"), "--max-steps", "5"]) == 3
    inputs = tmp_path / "out-inputs"
    start = f"--teacher {inputs}/all-MiniLM-L6-v2 --data {inputs}/smart-home --layers 3"
    ((command, *words),) = commands
    assert command == "compress"
    assert words[: len(start.split())] == start.split()
    assert words[-2:] == ["--max-steps", "5"]
    assert (inputs / "smart-home" / "train.tsv").is_file()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"$ toolchain {shlex.join([command, *words])}\n" in shown.err


def test_without_an_encoder_nothing_is_run(
    tmp_path: Path,
    commands: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(folder: Path) -> Path:
        raise StepError(f"no encoder for {folder.name}")

    monkeypatch.setattr(encoder, "fetch", fail)
    assert demo.main(["-o", str(tmp_path / "out")]) == 1
    assert commands == []
    assert capsys.readouterr().err == "error: no encoder for all-MiniLM-L6-v2\n"
