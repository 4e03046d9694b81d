"""The benchmark of all methods still trains: one method, few steps, real weights and texts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "methods.py"

pytestmark = [pytest.mark.slow, pytest.mark.shared, pytest.mark.timeout(1800)]


def run(shared: Path, folder: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """The quick benchmark of one method, and the results it wrote by their methods."""
    out = folder / "out"
    options = ["--quick", "--methods", "kd", "--jobs", "1", "--work", str(folder / "work")]
    command = [sys.executable, str(SCRIPT), "--shared", str(shared), *options, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["command"].endswith("--quick")
    return done, {result["method"]: result for result in record["results"]}


def test_a_method_is_trained_beside_labels_alone_and_one_that_fails_is_named(
    shared: Path, tmp_path: Path
) -> None:
    done, found = run(shared, tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(found) == {"finetune", "kd"}
    # The largest of six classes has 26 % of dev.
    assert 0.3 < found["finetune"]["metric"][0] <= 1
    assert found["kd"]["kl"][0] < found["kd"]["kl_before"][0]
    assert found["kd"]["refused"] == ""
    table = (tmp_path / "out.md").read_text()
    assert "| `kd` | teacher_uniform | " in table
    assert "| **finetune** (labels only) | " in table
    # Of the runs nothing is left behind.
    runs = tmp_path / "work" / "quick" / "trec6" / "runs"
    assert not list(runs.iterdir())

    # A file in the place of its folder keeps it from being trained; what was done is kept.
    (runs.parent / "results" / "kd.json").unlink()
    (runs / "kd-0").write_text("")
    done, again = run(shared, tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("not trained: kd on trec6")
    assert again == {"finetune": found["finetune"]}
