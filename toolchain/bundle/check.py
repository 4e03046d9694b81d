"""Run a bundle's own self-test here, as its user would there."""

import json
import subprocess
import sys
from pathlib import Path

from toolchain.artifact import MANIFEST, Artifact, file_sha256
from toolchain.errors import StepError, UsageError

__all__ = ["selftest"]

_SCRIPT = "selftest.py"
_TIMEOUT_S = 600


def selftest(folder: Path) -> list[str]:
    """Return what a bundle's self-test found wrong on this machine, a sentence each; empty: PASS.

    The script runs in a process of its own, isolated from this checkout's modules, and only when
    it is the one the manifest lists. Raises UsageError for a folder without a manifest,
    IntegrityError for a manifest that points outside, StepError when the script does not answer.
    """
    folder = folder.resolve()
    listed = Artifact.open(folder, check=False).files
    script = folder / _SCRIPT
    if _SCRIPT not in listed:
        raise UsageError(f"{folder}: {MANIFEST} lists no {_SCRIPT}, so it is not a bundle")
    if not script.is_file():
        return [f"{_SCRIPT} is missing"]
    if file_sha256(script) != listed[_SCRIPT]:
        return [f"{_SCRIPT} was changed, so it was not run"]
    command = [sys.executable, "-I", str(script), "--json"]
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise StepError(f"{script}: no answer within {_TIMEOUT_S} s") from None
    if ran.returncode not in (0, 4):
        last = ran.stderr.strip().rsplit("\n", 1)[-1]
        raise StepError(f"{script}: ended with exit code {ran.returncode}: {last}")
    report = json.loads(ran.stdout)
    return [str(problem) for problem in report["problems"]]
