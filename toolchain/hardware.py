"""What this machine has, found without importing torch where possible."""

import functools
import os
import platform
import subprocess
import time
from pathlib import Path

import psutil

__all__ = [
    "bf16_reason",
    "cores",
    "cpu_flags",
    "flops_per_s",
    "free_bytes",
    "gpu_bytes",
    "has_cuda",
    "memory_bytes",
]

_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


def cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Return the bytes of memory installed."""
    return int(psutil.virtual_memory().total)


def free_bytes() -> int:
    """Return the bytes of memory that can be taken without swapping."""
    return int(psutil.virtual_memory().available)


def cpu_flags() -> frozenset[str]:
    """Return the instruction-set flags of the CPU as the system names them, if it does."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return frozenset(value.split())
    if platform.system() == "Darwin":
        found = subprocess.run(
            ["sysctl", "-n", "hw.optional.arm.FEAT_BF16"],
            capture_output=True,
            text=True,
            check=False,
        )
        return frozenset({"bf16"} if found.stdout.strip() == "1" else ())
    return frozenset()


def has_cuda() -> bool:
    """Return whether torch can use a CUDA device; torch is asked only where a driver is loaded."""
    if not Path("/dev/nvidiactl").exists():
        return False
    import torch

    return torch.cuda.is_available()


def gpu_bytes() -> int | None:
    """Return the bytes of memory of the first GPU, None without one."""
    if not has_cuda():
        return None
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def bf16_reason() -> str | None:
    """Return what makes bf16 fast here, or None: without it, it is slower than fp32."""
    if has_cuda():
        import torch

        return "the GPU has bf16" if torch.cuda.is_bf16_supported() else None
    flags = cpu_flags()
    found = next((flag for flag in _BF16_FLAGS if flag in flags), None)
    return f"the CPU has {found}" if found else None


@functools.cache
def flops_per_s(*, bf16: bool, threads: int) -> float:
    """Return the operations per second of a matrix product of a block's size, probed here once."""
    import torch

    device = "cuda" if has_cuda() else "cpu"
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if bf16 else torch.float32
    x, w = (
        torch.randn(1024, 384, device=device).to(dtype),
        torch.randn(384, 1536, device=device).to(dtype),
    )
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        y = x @ w
        float(y[0, 0])
        best = min(best, time.perf_counter() - start)
    torch.set_num_threads(before)
    return 2 * 1024 * 384 * 1536 / best
