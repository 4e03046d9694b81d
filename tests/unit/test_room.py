"""A model that this machine's memory cannot bear is refused before its weights load."""

from pathlib import Path

import pytest

from toolchain import hardware
from toolchain.__main__ import main
from toolchain.errors import ResourceError
from toolchain.room import check_room, weights_of


def test_what_fits_passes_and_what_does_not_is_said_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware, "free_bytes", lambda: 10_000_000_000)
    check_room(2_500_000_000, 4.0, "exporting it")
    with pytest.raises(ResourceError) as refusal:
        check_room(2_500_000_001, 4.0, "exporting it")
    assert refusal.value.message == ("exporting it takes about 10.0 GB of memory, 10.0 GB are free")


def test_the_weights_of_a_folder_are_those_of_all_its_shards(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(b"x" * 10)
    (tmp_path / "config.json").write_text("{}")
    assert weights_of(tmp_path) == 20


def test_commands_refuse_it_before_work_and_leave_nothing(
    teacher_folder: Path,
    task_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    exported, out = tmp_path / "exported", tmp_path / "out"
    assert main(["export", str(teacher_folder), "-o", str(exported)]) == 0
    capsys.readouterr()
    monkeypatch.setattr(hardware, "free_bytes", lambda: 100_000)
    compress = ["compress", "--teacher", str(teacher_folder), "--data", str(task_folder)]
    commands = {
        "exporting it": ["export", str(teacher_folder)],
        "quantising it": ["quantize", str(exported)],
        "exporting the teacher": [*compress, "--layers", "1"],
    }
    for said, words in commands.items():
        assert main([*words, "-o", str(out)]) == 5
        assert said in capsys.readouterr().err
        assert not out.exists()
