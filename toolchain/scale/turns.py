"""Whose turn it is to write into a folder: one process at a time, the next one waits for it.

The lock is the kernel's, which drops it with the process, however that ends. The file holds the
name of who has it, for whoever waits. Another machine's lock counts too where the file system
passes locks on, as NFS does.
"""

import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from toolchain.errors import UsageError

__all__ = ["turn"]

_LOOK_S, _SAY_S = 0.5, 60.0


@contextmanager
def turn(root: Path, say: Callable[[str], None], done: Callable[[], str]) -> Iterator[None]:
    """Have the folder for this process, waiting for whoever has it.

    `say` hears for whom, and once a minute what `done` tells of the other's progress. Raises
    UsageError where nothing may be written.
    """
    try:
        handle = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UsageError(f"{root}: cannot be written into: {error.strerror}") from None
    try:
        _wait(handle, root, say, done)
        os.ftruncate(handle, 0)
        mine = {"process": os.getpid(), "host": platform.node(), "since": time.time()}
        os.pwrite(handle, json.dumps(mine).encode(), 0)
        yield
    finally:
        os.close(handle)


def _wait(handle: int, root: Path, say: Callable[[str], None], done: Callable[[], str]) -> None:
    spoken: float | None = None
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            now = time.monotonic()
            if spoken is None:
                say(f"{root}: {_holder(handle)} writes into it; waiting for it to end")
            elif now - spoken > _SAY_S:
                say(f"{root}: still waiting for {_holder(handle)}; {done()}")
            if spoken is None or now - spoken > _SAY_S:
                spoken = now
            # Short enough for Ctrl-C, and for whoever waits behind a cache that is nearly there.
            time.sleep(_LOOK_S)
            continue
        if spoken is not None:
            say(f"{root}: free now; going on with what is there, {done()}")
        return


def _holder(handle: int) -> str:
    try:
        found = json.loads(os.pread(handle, 4096, 0))
        since = time.strftime("%H:%M:%S", time.localtime(found["since"]))
        return f"process {found['process']} on {found['host']} (since {since})"
    except (ValueError, KeyError, TypeError):
        # It has the lock and has not said who it is yet.
        return "another process"
