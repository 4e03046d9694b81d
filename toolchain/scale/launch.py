"""The processes of one command: who speaks and writes, who waits, and what ends them together.

`torchrun`, `accelerate launch` and `deepspeed` all start the same command several times and number
the processes in the environment. The first one, "main", says what happens and writes what is made.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from toolchain import hardware
from toolchain.errors import StepError
from toolchain.scale.processes import is_main, local_ranks, rank, ranks

__all__ = ["joined", "main_first", "meet", "part", "told"]

# Collectives of a step: a peer that died is noticed at once, one that hangs after this long.
_STEP = timedelta(minutes=30)
# The others wait for steps that the main process does alone.
_ALONE = timedelta(days=30)
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

    Raises StepError when one of them ends before.
    """
    if ranks() == 1:
        yield
        return
    import torch

    # torch's own launcher counts the processes of a machine, others leave it out.
    os.environ.setdefault("LOCAL_WORLD_SIZE", str(ranks()))
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


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main process go through the block before all others."""
    if not is_main():
        meet()
    yield
    if is_main():
        meet()
