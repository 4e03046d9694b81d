"""The hardware a plan is made for: `8x40GB`, `host`, or whatever this machine is.

A plan for GPUs needs none: their number and memory are enough.
"""

import re
from dataclasses import dataclass

from toolchain import hardware
from toolchain.errors import UsageError
from toolchain.scale import processes

__all__ = ["Hardware", "parse_hardware", "this_machine"]

_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DEVICES = re.compile(r"(?:(\d+)\s*x\s*)?(.+)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Ranks of one kind. `rank_bytes` is the memory of each; host figures are None where unknown.

    Without GPUs ranks are processes, and their memory is their part of the machine's.
    """

    ranks: int
    rank_bytes: int
    gpu: bool
    host_bytes: int | None = None
    disk_bytes: int | None = None

    def __str__(self) -> str:
        """As a person would write it."""
        kind = f"{self.rank_bytes / 1e9:g}GB" if self.gpu else "host"
        return f"{self.ranks}x{kind}" if self.ranks > 1 or self.gpu else kind


def parse_hardware(text: str | None) -> Hardware:
    """Read a number of GPUs and the memory of each, as 8x40GB, or host (2xhost: two processes).

    What the host has may follow: 8x40GB,host=512GB,disk=2TB. None is this machine. Raises
    UsageError for anything else.
    """
    if text is None:
        return this_machine()
    devices, *rest = (part.strip() for part in text.split(","))
    found = _DEVICES.fullmatch(devices)
    if not found:
        raise _unreadable(text)
    count, what = found[1], found[2].strip()
    ranks = 1 if count is None else int(count)
    if ranks < 1:
        raise _unreadable(text)
    limits: dict[str, int] = {}
    for part in rest:
        name, _, size = part.partition("=")
        if name not in ("host", "disk") or name in limits:
            raise _unreadable(text)
        limits[name] = _bytes(size, text)
    if what == "host":
        memory = limits.get("host") or hardware.memory_bytes()
        return Hardware(
            ranks=ranks, rank_bytes=memory // ranks, gpu=False, disk_bytes=limits.get("disk")
        )
    return Hardware(
        ranks=ranks,
        rank_bytes=_bytes(what, text),
        gpu=True,
        host_bytes=limits.get("host"),
        disk_bytes=limits.get("disk"),
    )


def this_machine() -> Hardware:
    """Return what a run started here has: the ranks a launcher made, one without a launcher.

    Of several machines all are taken to be as this one.
    """
    ranks, local = processes.ranks(), processes.local_ranks()
    memory = hardware.memory_bytes()
    gpu = hardware.gpu_bytes()
    if gpu is not None:
        every = memory * ranks // local
        return Hardware(ranks=ranks, rank_bytes=gpu, gpu=True, host_bytes=every)
    return Hardware(ranks=ranks, rank_bytes=memory // local, gpu=False)


def _bytes(size: str, text: str) -> int:
    found = _SIZE.fullmatch(size.strip())
    if not found or found[2] not in _UNITS or float(found[1]) == 0:
        raise _unreadable(text)
    return round(float(found[1]) * _UNITS[found[2]])


def _unreadable(text: str) -> UsageError:
    return UsageError(
        f"placement.hardware: cannot read {text!r} as a number of GPUs and the memory of each",
        "write it as 8x40GB, 1x80GB or host; what the host has may follow: "
        "8x40GB,host=512GB,disk=2TB",
    )
