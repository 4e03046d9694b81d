import signal
import subprocess
import sys
import time

import psutil
import pytest

from toolchain.bench.process import run_worker
from toolchain.errors import IntegrityError, ResourceError, StepError, UsageError


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Make the text a module that a worker can be."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(text):
        (tmp_path / "a_worker.py").write_text(text)
        return "a_worker"

    return write


def run(name, tmp_path, *arguments, threads=1):
    lines = []
    run_worker(name, arguments, threads=threads, log=tmp_path / "log", heard=lines.append)
    return lines


def test_every_line_is_heard_and_stderr_goes_to_the_log(module, tmp_path):
    name = module("import sys; print('one'); print('two'); print('aside', file=sys.stderr)")
    assert run(name, tmp_path) == ["one", "two"]
    assert (tmp_path / "log").read_text() == "aside\n"


def test_a_worker_runs_with_the_threads_it_was_given_and_without_the_network(module, tmp_path):
    name = module(
        "import os\n"
        "for v in ('OMP', 'MKL', 'OPENBLAS'): print(os.environ[v + '_NUM_THREADS'])\n"
        "print(os.environ['HF_HUB_OFFLINE'])"
    )
    assert run(name, tmp_path, threads=3) == ["3", "3", "3", "1"]


def test_a_file_of_the_working_folder_is_not_taken_for_a_package(module, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    name = module("import numpy, toolchain; print(numpy.__version__ > '')")
    monkeypatch.chdir(elsewhere)
    assert run(name, tmp_path) == ["True"]


def test_a_crash_is_told_by_its_last_line(module, tmp_path):
    name = module("print('begun', flush=True)\nraise ValueError('the cable is loose')")
    with pytest.raises(StepError, match="worker failed: ValueError: the cable is loose"):
        run(name, tmp_path)


@pytest.mark.parametrize("error", [UsageError, IntegrityError, ResourceError])
def test_a_worker_that_ends_with_an_error_of_ours_ends_in_the_same_error_here(
    module, tmp_path, error
):
    code = f"import sys; print('where: what', file=sys.stderr); sys.exit({error.exit_code})"
    with pytest.raises(error, match=r"^where: what$"):
        run(module(code), tmp_path)


def test_a_silent_death_is_told_too(module, tmp_path):
    with pytest.raises(StepError, match="it left no message"):
        run(module("raise SystemExit(9)"), tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_killed_worker_is_told_by_its_signal(module, tmp_path):
    name = module("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(StepError, match=r"killed by SIGKILL .*run it again"):
        run(name, tmp_path)


def test_a_worker_is_not_left_behind_when_its_listener_fails(module, tmp_path):
    name = module("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
    pids = []

    def heard(line):
        pids.append(int(line))
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        run_worker(name, [], threads=1, log=tmp_path / "log", heard=heard)
    assert not psutil.pid_exists(pids[0])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_worker_ends_when_the_process_that_started_it_is_killed(module, tmp_path):
    module(
        "import os, time\n"
        "from toolchain.bench.worker import end_with_stdin\n"
        "end_with_stdin()\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    )
    start = (
        "import sys; from pathlib import Path; from toolchain.bench.process import run_worker;"
        "run_worker('a_worker', [], threads=1, log=Path(sys.argv[1]),"
        " heard=lambda line: print(line, flush=True))"
    )
    command = [sys.executable, "-c", start, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.5)
        assert worker.is_running(), "the worker ended while its parent lived"
        assert worker.status() != psutil.STATUS_ZOMBIE
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 20
        while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "the worker outlived its parent"
            time.sleep(0.05)
