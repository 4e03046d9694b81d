"""A fresh process for what must not share one: its memory, its threads, its imports."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from toolchain.errors import IntegrityError, ResourceError, StepError, ToolchainError, UsageError

__all__ = ["run_worker"]

_ERRORS: dict[int, type[ToolchainError]] = {
    error.exit_code: error for error in (UsageError, IntegrityError, ResourceError)
}
# Where the package lies, so that the worker runs the same code without being in its folder.
_ROOT = str(Path(__file__).resolve().parents[2])
_THREAD_VARIABLES = (
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def _environment(threads: int) -> dict[str, str]:
    """Return this process's environment, with the threads fixed and the network left alone."""
    paths = [_ROOT, os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "TOKENIZERS_PARALLELISM": "false",
    }


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it left no message")


def _failure(returncode: int, log: Path) -> ToolchainError:
    if returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = f"signal {-returncode}"
        return StepError(
            f"the benchmark's worker was killed by {name}",
            "finished loads are kept: run it again; where memory is short, time fewer models",
        )
    error = _ERRORS.get(returncode)
    if error is not None:
        return error(_last_line(log))
    return StepError(f"the benchmark's worker failed: {_last_line(log)}")


def run_worker(
    module: str,
    arguments: Sequence[str],
    *,
    threads: int,
    log: Path,
    heard: Callable[[str], None],
) -> None:
    """Run `python -m module arguments` to its end, its stderr in `log`.

    `heard` gets every line of its stdout. The worker's stdin is a pipe that closes when this
    process ends, however it ends. Raises the error the worker ended with: the class goes by the
    exit code, the message is the last line of stderr.
    """
    # -P: a file in the working folder must not be taken for a package of the same name.
    command = [sys.executable, "-P", "-m", module, *arguments]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=_environment(threads),
            encoding="utf-8",
            errors="replace",
        )
        with process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    heard(line.rstrip("\n"))
                returncode = process.wait()
            finally:
                process.kill()
    if returncode:
        raise _failure(returncode, log)
