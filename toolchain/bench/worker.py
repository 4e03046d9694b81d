"""The process in which models are timed: `python -m toolchain.bench.worker FOLDER`.

It reads FOLDER/spec.json, times every load that has no result yet, and writes each result as soon
as it is whole. On stdout it prints one number after every block: the blocks done so far. It ends
when its stdin closes, because then nobody waits for it any more.
"""

import gc
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from toolchain.bench.clock import alternate, timer_ns
from toolchain.bench.job import (
    Job,
    LoadResult,
    feeds_path,
    read_feeds,
    read_result,
    write_result,
)
from toolchain.errors import ToolchainError
from toolchain.runtimes.runtime import Session, runtimes

__all__ = ["end_with_stdin", "main"]


def end_with_stdin() -> None:
    """End this process as soon as its stdin is closed; costs one sleeping thread."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _open(job: Job) -> dict[str, Session]:
    return {
        contender.name: runtimes.get(contender.runtime)(
            contender.path, threads=job.threads, provider=job.provider
        )
        for contender in job.contenders
    }


def _time_load(folder: Path, job: Job, number: int, sessions: Mapping[str, Session]) -> LoadResult:
    blocks_of_a_load = job.rounds * len(job.contenders)
    done = number * blocks_of_a_load

    def finished() -> None:
        nonlocal done
        # A further pass over the rounds is not counted.
        done = min(done + 1, (number + 1) * blocks_of_a_load)
        print(done, flush=True)

    feeds = read_feeds(feeds_path(folder, number))
    own = {name: read_feeds(path) for name, path in job.own_feeds(folder, number).items()}
    blocks = alternate(sessions, job.loads[number], feeds, job.rounds, finished=finished, own=own)
    return LoadResult(job=job.digest, timer_ns=timer_ns(), blocks=tuple(blocks))


def _time_loads(folder: Path, job: Job) -> None:
    sessions = _open(job)
    # What the imports left behind is not looked through again between blocks.
    gc.collect()
    gc.freeze()
    for number in range(len(job.loads)):
        if read_result(folder, number, job) is None:
            write_result(folder, number, _time_load(folder, job, number, sessions))
    for session in sessions.values():
        session.close()


def main(arguments: list[str]) -> int:
    """Time what the folder's specification asks for; returns the exit code."""
    end_with_stdin()
    folder = Path(arguments[0])
    try:
        _time_loads(folder, Job.parse((folder / "spec.json").read_text(encoding="utf-8")))
    except ToolchainError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
