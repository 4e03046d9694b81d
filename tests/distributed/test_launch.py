"""`toolchain distill` in several processes: who speaks, who writes, and how they end together."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from tests.conftest import make_teacher
from tests.distributed.conftest import STEADY, Ranks
from toolchain.artifact import Artifact

PIECES = ["--teacher-placement", "zero3", "--student-placement", "zero2"]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    return make_teacher(folder, head=True, seed=7, num_hidden_layers=2, **STEADY)


def words(teacher: Path, student: Path, data: Path, out: Path) -> list[str]:
    ends = ["--teacher", str(teacher), "--student", str(student), "--data", str(data)]
    return ["distill", *ends, "--method", "kd", "-o", str(out), "train.precision=fp32"]


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(["torch.distributed.run", "--nproc-per-node", "2", "-m"], id="torchrun"),
        pytest.param(
            ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m"],
            id="accelerate",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_launcher_starts_it_and_the_first_process_speaks(
    sharding: Ranks,
    steady: Path,
    small: Path,
    task_folder: Path,
    tmp_path: Path,
    launcher: list[str],
) -> None:
    command = words(steady, small, task_folder, tmp_path / "out")
    command += [*PIECES, "--max-steps", "6", "--json"]
    (said,) = sharding.run(["-m", *launcher, "toolchain", *command], 1)
    found = json.loads(said[said.index("{") :])
    artifact = Artifact.open(tmp_path / "out")
    assert found["digest"] == artifact.digest
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.num_hidden_layers == 2


def test_nobody_imports_deepspeed_or_hears_of_it_unasked(
    ranks: Ranks, steady: Path, small: Path, task_folder: Path, tmp_path: Path
) -> None:
    command = [*words(steady, small, task_folder, tmp_path / "out"), "--max-steps", "2"]
    (process,) = ranks.start(["-m", "toolchain", *command], 1)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "accelerator" not in errors
    assert "deepspeed" not in errors.lower()


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_the_run_goes_on(
    sharding: Ranks, steady: Path, small: Path, task_folder: Path, tmp_path: Path
) -> None:
    command = words(steady, small, task_folder, tmp_path / "out")
    command += [*PIECES, "train.epochs=8", "train.checkpoint_seconds=0.1"]
    first, second = sharding.start(["-m", "toolchain", *command], 2)
    saved: list[Path] = []
    while not saved:
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.2)
        saved = list(tmp_path.glob(".out.*/*/checkpoint.safetensors"))
    os.kill(second.pid, signal.SIGKILL)
    died = time.monotonic()
    _, errors = first.communicate(timeout=120)
    second.communicate()
    assert time.monotonic() - died < 60
    assert first.returncode == 1
    assert "another one has ended" in errors
    assert "Traceback" not in errors
    # Another number of processes goes on.
    (alone,) = sharding.start(["-m", "toolchain", *command, "train.checkpoint_seconds=30"], 1)
    _, errors = alone.communicate(timeout=500)
    assert alone.returncode == 0, errors
    assert "going on from step" in errors
    Artifact.open(tmp_path / "out")
