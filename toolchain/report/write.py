"""Writing a report: report.json, report.md and report.html beside each other."""

import json
from pathlib import Path

from toolchain.artifact import write_atomic
from toolchain.errors import UsageError
from toolchain.report.renderers import RENDERERS
from toolchain.report.report import Report

__all__ = ["FILES", "read", "write"]

FILES = {"report.json": "json", "report.md": "markdown", "report.html": "html"}


def write(report: Report, folder: Path) -> list[Path]:
    """Write every form of the report into `folder` and return the paths.

    All are rendered before the first is written, so they never disagree. Raises UsageError for a
    report that cannot be rendered truthfully or a folder that cannot be made, ResourceError when
    the disk is full.
    """
    contents = {name: RENDERERS.get(renderer)(report) for name, renderer in FILES.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"output {folder}: cannot be made: {error.strerror}", "choose another folder"
        ) from None
    paths = []
    for name, content in contents.items():
        write_atomic(folder / name, content)
        paths.append(folder / name)
    return paths


def read(path: Path) -> Report:
    """Read a report.json. Raises UsageError that names the file and what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: a report is a JSON object, found {type(content).__name__}")
    return Report.from_json(content, where=str(path))
