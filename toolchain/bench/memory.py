"""The largest memory a process has had, read where the reading can be trusted."""

import sys
from pathlib import Path

__all__ = ["peak_bytes"]

_STATUS = Path("/proc/self/status")


def _high_water_mark() -> int | None:
    """Return VmHWM of this process in bytes, or None where the system does not tell."""
    if not _STATUS.is_file():
        return None
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def peak_bytes() -> int:
    """Return the peak resident memory of the current process, in bytes.

    On Linux `ru_maxrss` starts at the parent's peak, because it survives fork and exec: a small
    worker of a large parent would report the parent. VmHWM belongs to the process alone.
    """
    mark = _high_water_mark()
    if mark is not None:
        return mark
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    # There is no such module on Windows.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
