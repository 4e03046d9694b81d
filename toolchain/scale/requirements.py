"""What placements in pieces need before they can start.

DeepSpeed: itself, a compiler, no lock that nobody holds. Tensor parallelism: a transformers that
cuts models while it reads them. Imports neither torch nor any of them: plans ask.
"""

import importlib.util
import os
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import psutil

from toolchain.errors import UsageError

__all__ = ["check_deepspeed", "check_transformers", "extensions_folder", "stale_locks"]

# A build has a process at work in its folder, but for moments at its beginning and its end.
_STALE_S = 60.0
# Earlier ones cut other modules under other settings; tested with this one.
_CUTS = (5, 23)


def check_deepspeed(wanted: str, *, cuda: bool) -> None:
    """Refuse what `wanted` (a setting) asks for where DeepSpeed cannot run. Raises UsageError."""
    if importlib.util.find_spec("deepspeed") is None:
        raise UsageError(
            f"{wanted} needs DeepSpeed, which is not installed",
            "pip install 'toolchain[deepspeed]'",
        )
    compiler = os.environ.get("CXX", "c++")
    if not cuda and shutil.which(compiler) is None:
        raise UsageError(
            f"{wanted} needs a C++ compiler ({compiler}), and there is none: on a CPU DeepSpeed "
            "builds its communication between processes when it first runs",
            "install g++, name a compiler in CXX, or use whole",
        )
    for lock in stale_locks():
        raise UsageError(
            f"{lock}: left behind by a build that was killed; DeepSpeed would wait for it forever",
            "remove this file",
        )


def check_transformers(wanted: str) -> None:
    """Refuse what `wanted` (a setting) asks for where transformers cannot. Raises UsageError."""
    found = version("transformers")
    if tuple(map(int, found.split(".")[:2])) < _CUTS:
        least = ".".join(map(str, _CUTS))
        raise UsageError(
            f"{wanted} needs transformers {least} or newer, found {found}", "use zero3, or whole"
        )


def extensions_folder() -> Path:
    """Return where torch's extensions are built, as torch decides it."""
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(given) if given else Path.home() / ".cache" / "torch_extensions"


def stale_locks() -> list[Path]:
    """Return lock files of builds that ended without removing them."""
    found = [*extensions_folder().glob("*/lock"), *extensions_folder().glob("*/*/lock")]
    old = [lock for lock in found if _age_s(lock) > _STALE_S]
    if not old:
        return []
    at_work = {process.info["cwd"] for process in psutil.process_iter(["cwd"])}
    return sorted(lock for lock in old if str(lock.parent.resolve()) not in at_work)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
