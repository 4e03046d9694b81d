"""What one model costs alone: time to its first answer and peak memory, in a fresh process.

`python -m toolchain.bench.footprint FOLDER` is that process: it reads FOLDER/footprint.json and
FOLDER/feed.npz and adds its findings as FOLDER/found.json.
"""

import importlib
import json
import sys
import tempfile
import time
from pathlib import Path

from toolchain.artifact import write_atomic
from toolchain.bench.job import Contender, read_feeds, write_feeds
from toolchain.bench.memory import peak_bytes
from toolchain.bench.process import run_worker
from toolchain.bench.worker import end_with_stdin
from toolchain.errors import ToolchainError, UsageError
from toolchain.measurement import Footprint
from toolchain.registry import unknown_name
from toolchain.runtimes.runtime import Feed, OpenSession, runtimes

__all__ = ["footprint", "main"]

_RUNS = 20


def footprint(
    contender: Contender, feed: Feed, *, threads: int, provider: str, work: Path
) -> Footprint:
    """Measure one contender's cold start and memory in a process of its own.

    `cold_start_ms` runs from before the runtime is imported to the first answer: importing,
    opening, one run. Starting the interpreter is not in it, and the files may already lie in the
    system's page cache. `peak_bytes` is the resident peak after 20 runs of `feed`,
    `baseline_bytes` the peak just before the import: an interpreter with NumPy.

    Raises what the runtime raises on opening, and StepError when the worker fails.
    """
    modules = runtimes.modules()
    if contender.runtime not in modules:
        raise unknown_name("runtime", contender.runtime, modules, contender.name)
    if not contender.path.exists():
        raise UsageError(f"{contender.name}: {contender.path}: no such file or folder")
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="footprint-", dir=work) as name:
        folder = Path(name)
        write_feeds(folder / "feed.npz", [feed])
        request = {
            "module": modules[contender.runtime],
            "path": str(contender.path.resolve()),
            "threads": threads,
            "provider": provider,
        }
        write_atomic(folder / "footprint.json", json.dumps(request))
        run_worker(
            "toolchain.bench.footprint",
            [name],
            threads=threads,
            log=folder / "worker.log",
            heard=lambda _: None,
        )
        found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return Footprint(
        model=contender.name,
        cold_start_ms=found["cold_start_ms"],
        peak_bytes=found["peak_bytes"],
        baseline_bytes=found["baseline_bytes"],
    )


def _measure(folder: Path) -> None:
    request = json.loads((folder / "footprint.json").read_text(encoding="utf-8"))
    (feed,) = read_feeds(folder / "feed.npz")
    path = Path(request["path"])
    baseline = peak_bytes()
    start = time.perf_counter_ns()
    # Not through the registry, whose search for entry points would be timed too.
    open_session: OpenSession = getattr(
        importlib.import_module(request["module"]), runtimes.attribute
    )
    session = open_session(path, threads=request["threads"], provider=request["provider"])
    session.run(feed)
    cold_start_ns = time.perf_counter_ns() - start
    for _ in range(_RUNS - 1):
        session.run(feed)
    found = {
        "cold_start_ms": cold_start_ns / 1e6,
        "peak_bytes": peak_bytes(),
        "baseline_bytes": baseline,
    }
    session.close()
    write_atomic(folder / "found.json", json.dumps(found))


def main(arguments: list[str]) -> int:
    """Measure what the folder asks for; returns the exit code."""
    end_with_stdin()
    try:
        _measure(Path(arguments[0]))
    except ToolchainError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
