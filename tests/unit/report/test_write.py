import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.errors import UsageError
from toolchain.report.report import Report
from toolchain.report.write import read, write


def test_all_three_forms_are_written_and_read_back(report: Report, tmp_path: Path) -> None:
    folder = tmp_path / "build" / "report"
    paths = write(report, folder)
    assert [path.name for path in paths] == ["report.json", "report.md", "report.html"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in paths)
    assert read(folder / "report.json") == report


def test_a_report_that_cannot_be_rendered_leaves_no_file(report: Report, tmp_path: Path) -> None:
    import dataclasses

    wrong = dataclasses.replace(report, models=report.models[:1])
    with pytest.raises(UsageError):
        write(wrong, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_file_in_the_place_of_its_folder_is_refused(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("mine")
    with pytest.raises(UsageError, match="cannot be made: File exists"):
        write(report, tmp_path / "report")
    assert (tmp_path / "report").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "not readable as JSON"), ("[]", "found list"), ('{"schema": 9}', "schema 9 found")],
)
def test_a_file_that_is_no_report_is_refused_by_name(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=rf"other\.json: .*{said}"):
        read(path)
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path / "none.json")


def test_reports_are_made_without_torch_or_a_runtime() -> None:
    code = (
        "import sys; from toolchain.report.write import write, RENDERERS;"
        "[RENDERERS.get(n) for n in RENDERERS.names()];"
        "sys.exit(bool({'torch', 'transformers', 'onnxruntime', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
