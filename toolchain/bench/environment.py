"""What a figure depends on besides the model: the machine, its load, the software.

Nothing here names the machine, its user or a folder, so that a report can be published.
"""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

import psutil

__all__ = ["Environment", "GitState", "cpu_model", "environment", "packages"]

_CPUINFO = Path("/proc/cpuinfo")
# Instruction sets that the kernels of the runtimes choose between.
_X86 = {
    "amx_bf16",
    "amx_fp16",
    "amx_int8",
    "amx_tile",
    "avx",
    "avx2",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "avx512bw",
    "avx512f",
    "avx512vl",
    "avx_vnni",
    "avx_vnni_int8",
    "f16c",
    "fma",
}
_ARM = {
    "asimd",
    "asimddp",
    "asimdfhm",
    "asimdhp",
    "bf16",
    "fphp",
    "i8mm",
    "neon",
    "sme",
    "sve",
    "sve2",
    "svebf16",
    "svei8mm",
}
_PACKAGES = (
    "accelerate",
    "ai-edge-litert",
    "executorch",
    "nncf",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "safetensors",
    "tokenizers",
    "toolchain",
    "torch",
    "transformers",
)


class GitState(TypedDict):
    """The commit of the working folder; `dirty` when a tracked file differs from it."""

    commit: str
    dirty: bool


class Environment(TypedDict):
    """The `environment` entry of report.json.

    `cores` are physical, `threads` the hardware threads that this process may use, `load` the mean
    number of running processes over the last minute.
    """

    cpu: str
    flags: list[str]
    cores: int
    threads: int
    load: float
    ram_bytes: int
    os: str
    python: str
    packages: dict[str, str]
    git: GitState | None


def _cpuinfo() -> dict[str, str]:
    """Return the first value of every key of /proc/cpuinfo; empty where there is none."""
    found: dict[str, str] = {}
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, separator, value = line.partition(":")
            if separator:
                found.setdefault(key.strip(), value.strip())
    return found


def cpu_model() -> str:
    """Return what the processor calls itself, or else its architecture."""
    info = _cpuinfo()
    named = info.get("model name") or info.get("Model") or info.get("Hardware")
    return named or platform.processor() or platform.machine()


def _flags() -> list[str]:
    info = _cpuinfo()
    present = (info.get("flags") or info.get("Features") or "").split()
    return sorted((_X86 | _ARM).intersection(present))


def _usable_threads() -> int:
    count = psutil.cpu_count() or 1
    if sys.platform == "linux":
        count = len(os.sched_getaffinity(0))
    return count


def packages() -> dict[str, str]:
    """Return the versions of the packages that change a figure, without importing them."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str | None:
    """Return git's answer in the working folder, or None without git or a repository."""
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _git_state() -> GitState | None:
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return None
    return GitState(commit=commit, dirty=bool(changes))


def environment() -> Environment:
    """Describe this machine and installation as report.json does; takes a few milliseconds."""
    return Environment(
        cpu=cpu_model(),
        flags=_flags(),
        cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        threads=_usable_threads(),
        load=round(psutil.getloadavg()[0], 2),
        ram_bytes=int(psutil.virtual_memory().total),
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages=packages(),
        git=_git_state(),
    )
