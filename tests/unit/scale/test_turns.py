"""Writers of a cache take turns; whatever ends one, the next goes on with what is there."""

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.unit.scale.lab import FEW, contents, filled, plan_of, rows_of
from toolchain.data.batching import collate
from toolchain.distill.extract import Request
from toolchain.errors import UsageError
from toolchain.progress import Null
from toolchain.scale import filling
from toolchain.scale.cached import CachedModel
from toolchain.scale.ledger import CacheFolder

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("small_shards")

KILLED = """
import sys
from pathlib import Path
from tests.unit.scale.lab import filled, plan_of
from toolchain.scale import filling
filling.SHARD_BYTES = 1
teacher, task, out = map(Path, sys.argv[1:])
online = filling.online
def slowly(*args, **more):
    source = online(*args, **more)
    def captures(batches):
        for number, one in enumerate(source(batches)):
            if number == 3:
                print("three", flush=True)
                sys.stdin.readline()
            yield one
    return captures
import toolchain.steps.cache as step
step.online = slowly
filled(plan_of(teacher, task, "kd", train={"precision": "fp32", "batch_size": 4}), out)
"""


CHUNKED = """
import sys
from pathlib import Path
from tests.unit.scale.lab import filled, plan_of
from toolchain.scale import filling, stream
# About a batch or two; a shard would hold more than all rows.
filling.CHUNK_BYTES = 4 * 32 * 60
passes = stream.StreamedTeacher.captures_of
def counted(self, batches, **more):
    counted.passes += 1
    for number, one in enumerate(passes(self, batches, **more)):
        if counted.passes == 3 and number == 0:
            print("three", flush=True)
            sys.stdin.readline()
        yield one
counted.passes = 0
stream.StreamedTeacher.captures_of = counted
teacher, task, out = map(Path, sys.argv[1:])
streams = {"train": {"precision": "fp32", "batch_size": 4}, "placement": {"teacher": "streamed"}}
filled(plan_of(teacher, task, "kd", **streams), out)
"""


ROOT = Path(__file__).resolve().parents[3]


def start(words: Sequence[object]) -> subprocess.Popen:
    """Start a process of the checkout whose two streams are read as one."""
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def heard(process: subprocess.Popen, what: str) -> str:
    """Read what a process says up to the first line with `what` in it; return that line."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if what in line:
            return str(line)
    raise AssertionError("".join(said))


def halted(teacher: Path, task: Path, out: Path, code: str = KILLED) -> subprocess.Popen:
    """Start a process that fills a part and then stands still with the folder in hand."""
    process = start(["-c", code, teacher, task, out])
    heard(process, "three")
    return process


def killed(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def second(teacher: Path, task: Path, out: Path) -> subprocess.Popen:
    """Start the command on the folder that another process has in hand."""
    words = ["cache", "--teacher", teacher, "--data", task, "--method", "kd", "--layers", 2]
    few = ["train.batch_size=4", "train.precision=fp32", "threads=1"]
    # Shards as small as the first one's.
    code = (
        "import sys; from toolchain.scale import filling; filling.SHARD_BYTES = 1; "
        "from toolchain.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    return start(["-c", code, *words, "-o", out, *few])


def test_a_second_process_waits_for_the_first_and_uses_what_it_wrote(
    folder: CacheFolder, teacher_folder: Path, task: Path, tmp_path: Path
) -> None:
    out = tmp_path / "shared"
    first = halted(teacher_folder, task, out)
    other = second(teacher_folder, task, out)
    try:
        line = heard(other, "waiting for it to end")
        assert f"process {first.pid} on {platform.node()} (since " in line
        assert other.poll() is None
        said, _ = first.communicate("go on\n")
        assert first.returncode == 0, said
        ends, _ = other.communicate()
        assert other.returncode == 0, ends
    finally:
        for process in (first, other):
            killed(process)
    assert "24 rows are finished" in ends
    assert "24 rows, 0 of them new" in ends
    assert contents(CacheFolder(out / "teacher")) == contents(folder)


def test_a_second_process_goes_on_where_the_first_was_killed(
    folder: CacheFolder, teacher_folder: Path, task: Path, tmp_path: Path
) -> None:
    out = tmp_path / "shared"
    half = CacheFolder(out / "teacher")
    first = halted(teacher_folder, task, out)
    other = second(teacher_folder, task, out)
    try:
        heard(other, "waiting for it to end")
        assert len(half.shards()) == 3
        killed(first)
        ends, _ = other.communicate()
        assert other.returncode == 0, ends
    finally:
        for process in (first, other):
            killed(process)
    assert "12 rows are finished" in ends
    assert "24 rows, 12 of them new" in ends
    assert contents(half) == contents(folder)


def test_what_does_not_belong_there_is_refused_without_waiting(
    folder: CacheFolder, teacher_folder: Path, task: Path
) -> None:
    with folder.writing(Null().say), pytest.raises(UsageError, match="begun for other terms"):
        filled(plan_of(teacher_folder, task, "tinybert", **FEW), folder.root.parent)


def test_a_killed_filling_goes_on(
    folder: CacheFolder, teacher_folder: Path, task: Path, tmp_path: Path
) -> None:
    plan = plan_of(teacher_folder, task, "kd", **FEW)
    out = tmp_path / "killed"
    half = CacheFolder(out / "teacher")
    killed(halted(teacher_folder, task, out))
    stamps = {s.name: half.path(s).stat().st_mtime_ns for s in half.shards()}
    assert len(stamps) == 3
    # As if the kill had torn a line of the ledger, and left a shard without one.
    ledger = half.root / "shards.jsonl"
    ledger.write_bytes(ledger.read_bytes() + b'{"name": "shard-0000')
    (half.root / "shard-000003.safetensors").write_bytes(b"torn")
    (done,) = filled(plan, out)
    assert done.added == 12
    assert {n: half.root.joinpath(n).stat().st_mtime_ns for n in stamps} == stamps
    assert contents(half) == contents(folder)


def test_a_kill_of_a_streamed_filling_costs_one_chunk(
    teacher_folder: Path, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "SHARD_BYTES", 1 << 30)
    plan = plan_of(teacher_folder, task, "kd", **FEW, placement={"teacher": "streamed"})
    (at_once,) = filled(plan, tmp_path / "at once")
    assert len(CacheFolder(at_once.folder).shards()) == 1
    out = tmp_path / "killed"
    killed(halted(teacher_folder, task, out, CHUNKED))
    folder = CacheFolder(out / "teacher")
    finished = contents(folder)
    # Two chunks are there; of the third, nothing.
    assert len(finished) == 2
    before = sum(shard.rows for shard in folder.shards())
    assert 0 < before < at_once.rows
    (done,) = filled(plan, out)
    assert done.added == at_once.rows - before
    assert finished.items() < contents(folder).items()
    rows, _ = rows_of(plan, teacher_folder)
    batch = collate(rows, list(range(len(rows))))
    one, other = (
        CachedModel(folder=found.folder, spec=plan.teacher_specs[0])
        .open(frozenset({Request("logits")}), device=CPU, bf16=False)
        .captures(batch, {})
        .tensor(Request("logits"))
        for found in (at_once, done)
    )
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
