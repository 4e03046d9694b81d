"""The processes of one command: who speaks and writes, who waits, and what ends them together.

`torchrun`, `accelerate launch` and `deepspeed` all start the same command several times and number
the processes in the environment. The first one, "main", says what happens and writes what is made.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from toolchain import hardware
from toolchain.errors import StepError
from toolchain.scale.processes import is_main, local_ranks, rank, ranks

__all__ = ["joined", "main_first", "meet", "part", "share", "told"]

# Collectives of a step: a peer that died is noticed at once, one that hangs after this long.
_STEP = timedelta(minutes=30)
# The others wait for steps that the main process does alone.
_ALONE = timedelta(days=30)
# The first process may still be importing its libraries while another looks for it.
_REACH_S = 40.0
# How torch, gloo and NCCL say that a peer has gone.
_GONE = (
    "closed by peer",
    "Connection reset",
    "Broken pipe",
    "Connection refused",
    "gloo",
    "NCCL",
    "Timed out",
    "recvValue failed",
    "Socket",
)
_waiting: list[Any] = []


@contextmanager
def joined() -> Iterator[None]:
    """Meet the other processes, if there are any, and part from them at the end.

    Raises StepError when one of them ends before, or the first cannot be reached.
    """
    if ranks() == 1:
        yield
        return
    _reach_the_first()
    _be_found()
    import torch

    # Not every launcher says it where others look for it.
    os.environ.setdefault("LOCAL_WORLD_SIZE", str(local_ranks()))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, hardware.cores() // local_ranks())))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=_STEP)
        _waiting.append(torch.distributed.new_group(backend="gloo", timeout=_ALONE))
        yield
        part()
    except (torch.distributed.DistError, RuntimeError) as error:
        if not any(sign in str(error) for sign in _GONE):
            raise
        raise StepError(
            f"process {rank()} of {ranks()} stops: another one has ended, or cannot be reached",
            "its own message says why; start the same command again to go on from the last "
            "checkpoint",
        ) from error


def _reach_the_first() -> None:
    """Raise StepError unless the address where processes meet answers within a minute."""
    if is_main():
        return
    host, port = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", "0"))
    given_up = time.monotonic() + _REACH_S
    while True:
        try:
            socket.create_connection((host, port), timeout=5.0).close()
            return
        except OSError as error:
            if time.monotonic() < given_up:
                time.sleep(0.5)
                continue
            raise StepError(
                f"process {rank()} of {ranks()} cannot reach the first one at {host}:{port}: "
                f"{error.strerror or error}",
                "check the address given to the launcher, that the first process runs there, and "
                "that no firewall closes the port",
            ) from error


def _be_found() -> None:
    """Have gloo tell other machines the address they can reach this one at.

    It takes the one the machine's own name stands for, which many systems set to one of loopback.
    Here it is that of the interface from which the first process is reached.
    """
    first = (os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", "0")))
    try:
        kind, *_, address = socket.getaddrinfo(*first, type=socket.SOCK_DGRAM)[0]
    except OSError:
        # The first process need not know itself by that name.
        return
    with socket.socket(kind, socket.SOCK_DGRAM) as probe:
        # No packet is sent: the system only chooses a way.
        probe.connect(address)
        own = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if own in (one.address.partition("%")[0] for one in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def part() -> None:
    """Let the processes go each its way; nothing to do for one by itself, or a second time."""
    if not _waiting:
        return
    import torch

    meet()
    _waiting.clear()
    torch.distributed.destroy_process_group()


def meet() -> None:
    """Wait until all processes are here."""
    told(None)


def told(value: Any) -> Any:
    """Return what the main process gave, in every process."""
    if not _waiting:
        return value
    import torch

    said = [value]
    torch.distributed.broadcast_object_list(said, src=0, group=_waiting[-1])
    torch.distributed.barrier(group=_waiting[-1])
    return said[0]


def share(folder: Path) -> None:
    """Raise StepError unless all processes see what the main one writes into a folder.

    Those of several machines may each have a disk of its own under that name.
    """
    if not _waiting:
        return
    probe = folder / f".{told(uuid4().hex)}"
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    meet()
    seen = probe.exists()
    meet()
    if is_main():
        probe.unlink()
    if not seen:
        raise StepError(
            f"{folder.parent}: process {rank()} of {ranks()} does not see there what the first one "
            "writes",
            "give an output folder on a file system that all machines share",
        )


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main process go through the block before all others."""
    if not is_main():
        meet()
    yield
    if is_main():
        meet()
