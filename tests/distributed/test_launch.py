"""`toolchain distill` in several processes: who speaks, who writes, and how they end together."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from tests.conftest import make_teacher
from tests.distributed.conftest import STEADY, Ranks, check_equal, free_port
from toolchain.artifact import Artifact
from toolchain.errors import StepError
from toolchain.scale import launch

PIECES = ["--teacher-placement", "zero3", "--student-placement", "zero2"]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    return make_teacher(folder, head=True, seed=7, num_hidden_layers=2, **STEADY)


def words(teacher: Path, student: Path, data: Path) -> list[str]:
    ends = ["--teacher", str(teacher), "--student", str(student), "--data", str(data)]
    return ["distill", *ends, "--method", "kd", "train.precision=fp32"]


TORCHRUN = ["torch.distributed.run", "--nproc-per-node", "2", "-m"]


def launched(
    sharding: Ranks, launcher: list[str], command: list[str], out: Path
) -> dict[str, torch.Tensor]:
    """Run a command by a launcher; return the student it wrote."""
    words = ["-m", *launcher, "toolchain", *command, "-o", str(out), "--json"]
    (said,) = sharding.run(words, 1)
    # DeepSpeed's launcher talks before and behind what the first process prints.
    found, _ = json.JSONDecoder().raw_decode(said[said.index("{\n") :])
    assert found["digest"] == Artifact.open(out).digest
    assert AutoModelForSequenceClassification.from_pretrained(out).config.num_hidden_layers == 2
    return dict(load_file(out / "model.safetensors"))


@pytest.fixture(scope="module")
def command(steady: Path, small: Path, task_folder: Path) -> list[str]:
    return [*words(steady, small, task_folder), *PIECES, "--max-steps", "6"]


@pytest.fixture(scope="module")
def by_torchrun(
    sharding: Ranks, command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    return launched(sharding, TORCHRUN, command, tmp_path_factory.mktemp("torchrun") / "out")


def test_torchrun_starts_it_and_the_first_process_speaks(
    by_torchrun: dict[str, torch.Tensor], small: Path
) -> None:
    before = load_file(small / "model.safetensors")
    assert any(not tensor.equal(before[name]) for name, tensor in by_torchrun.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m"],
        ["deepspeed.launcher.runner", "--num_gpus", "2", "--module"],
    ],
    ids=["accelerate", "deepspeed"],
)
def test_other_launchers_make_what_torchrun_makes(
    sharding: Ranks,
    by_torchrun: dict[str, torch.Tensor],
    command: list[str],
    tmp_path: Path,
    launcher: list[str],
) -> None:
    other = launched(sharding, launcher, command, tmp_path / "out")
    for name, tensor in by_torchrun.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-7)


def on_machine(number: int, port: int) -> list[str]:
    """Return the words of the launcher of one of two machines, with one process each."""
    meeting = ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    nodes = ["--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1"]
    return ["-m", "torch.distributed.run", *nodes, *meeting, "-m", "toolchain"]


@pytest.mark.slow
def test_two_machines_make_what_one_process_makes(
    sharding: Ranks,
    steady: Path,
    small: Path,
    command: list[str],
    task_folder: Path,
    tmp_path: Path,
) -> None:
    port, both, one = free_port(), tmp_path / "both", tmp_path / "one"
    launchers = [
        sharding.start([*on_machine(number, port), *command, "-o", str(both)], 1)[0]
        for number in (0, 1)
    ]
    said = [launcher.communicate(timeout=300)[1] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], said
    alone = [*words(steady, small, task_folder), "--max-steps", "6"]
    sharding.run(["-m", "toolchain", *alone, "-o", str(one)], 1)
    weights = "model.safetensors"
    check_equal(one / weights, both / weights, small / weights)


@pytest.mark.slow
def test_machines_that_share_no_folder_are_told(
    sharding: Ranks, command: list[str], tmp_path: Path
) -> None:
    port = free_port()
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
    launchers = [
        sharding.start(
            [*on_machine(number, port), *command, "-o", str(tmp_path / str(number) / "out")], 1
        )[0]
        for number in (0, 1)
    ]
    first, second = (launcher.communicate(timeout=300)[1] for launcher in launchers)
    assert all(launcher.returncode for launcher in launchers)
    assert "process 1 of 2 does not see there what the first one writes" in " ".join(second.split())
    assert "another one has ended" in first
    assert not list(tmp_path.glob("*/out"))


@pytest.mark.slow
def test_compress_trains_on_all_processes_and_the_first_does_the_rest(
    sharding: Ranks, steady: Path, task_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["compress", "--teacher", str(steady), "--data", str(task_folder), "--layers", "2"]
    words += ["--method", "kd", "--target", "host", "--max-steps", "20", "--no-baseline"]
    words += ["-o", str(out), "benchmark.min_seconds=0.02", "benchmark.min_runs=20", "--json"]
    words += ["benchmark.rounds=2", "benchmark.tokens=[8]", "placement.teacher=tensor_parallel"]
    words += ["precisions=[fp32]", "gates.agreement=0", "gates.cosine=0", "gates.max_drop=1"]
    (said,) = sharding.run(["-m", *TORCHRUN, "toolchain", *words], 1)
    found, _ = json.JSONDecoder().raw_decode(said[said.index("{\n") :])
    assert found["shipped"].keys() == {"host"}
    assert (out / "onnx" / "model.onnx").is_file()
    assert (out / "report" / "report.html").is_file()


def test_nobody_imports_deepspeed_or_hears_of_it_unasked(
    ranks: Ranks, steady: Path, small: Path, task_folder: Path, tmp_path: Path
) -> None:
    command = [*words(steady, small, task_folder), "-o", str(tmp_path / "out"), "--max-steps", "2"]
    (process,) = ranks.start(["-m", "toolchain", *command], 1)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "accelerator" not in errors
    assert "deepspeed" not in errors.lower()


def test_other_machines_are_told_an_address_that_reaches_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "to be put back")
    monkeypatch.setenv("MASTER_PORT", "29500")
    interfaces = {
        name: [one.address for one in found if one.family == socket.AF_INET]
        for name, found in psutil.net_if_addrs().items()
    }
    for name, addresses in interfaces.items():
        for address in addresses:
            monkeypatch.delenv("GLOO_SOCKET_IFNAME")
            monkeypatch.setenv("MASTER_ADDR", address)
            launch._be_found()
            assert os.environ["GLOO_SOCKET_IFNAME"] == name
    # Who chose one keeps it.
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    launch._be_found()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"


def test_a_first_process_that_cannot_be_reached_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "_REACH_S", 0.1)
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    port = free_port()
    monkeypatch.setenv("MASTER_PORT", str(port))
    with (
        pytest.raises(StepError, match=f"cannot reach the first one at 127.0.0.1:{port}"),
        launch.joined(),
    ):
        pass


@pytest.mark.slow
def test_a_hostfile_whose_host_cannot_be_reached_is_said_by_the_launcher(
    ranks: Ranks, command: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed", reason="the extra [deepspeed] is not installed")
    hosts = tmp_path / "hostfile"
    # No name below .invalid is ever found (RFC 2606).
    hosts.write_text("first.invalid slots=1\nsecond.invalid slots=1\n")
    launcher = ["-m", "deepspeed.launcher.runner", "--hostfile", str(hosts), "--module"]
    out = tmp_path / "out"
    (process,) = ranks.start([*launcher, "toolchain", *command, "-o", str(out)], 1)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "host=first.invalid was not reachable via ssh" in errors
    assert not out.exists()


@pytest.mark.slow
def test_the_first_process_killed_ends_the_others(
    ranks: Ranks, steady: Path, small: Path, task_folder: Path, tmp_path: Path
) -> None:
    command = [*words(steady, small, task_folder), "-o", str(tmp_path / "out")]
    command += ["train.epochs=200", "train.checkpoint_seconds=0.1"]
    first, second = ranks.start(["-m", "toolchain", *command], 2)
    while not list(tmp_path.glob(".out.*/*/checkpoint.safetensors")):
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.2)
    first.kill()
    died = time.monotonic()
    _, errors = second.communicate(timeout=120)
    first.communicate()
    assert time.monotonic() - died < 60
    assert second.returncode == 1
    assert "process 1 of 2 stops: another one has ended" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_the_run_goes_on(
    sharding: Ranks, steady: Path, small: Path, task_folder: Path, tmp_path: Path
) -> None:
    command = [*words(steady, small, task_folder), "-o", str(tmp_path / "out")]
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
