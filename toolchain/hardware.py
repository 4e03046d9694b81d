"""What this machine has, found without importing torch where possible."""

import functools
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "bf16_reason",
    "cores",
    "cpu_flags",
    "flops_per_s",
    "free_bytes",
    "gpu_bytes",
    "has_cuda",
    "memory_bytes",
    "quick_linear",
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
    told = _cpuinfo()
    for key in ("flags", "Features"):
        if key in told:
            return frozenset(told[key].split())
    if platform.system() == "Darwin":
        found = subprocess.run(
            ["sysctl", "-n", "hw.optional.arm.FEAT_BF16"],
            capture_output=True,
            text=True,
            check=False,
        )
        return frozenset({"bf16"} if found.stdout.strip() == "1" else ())
    return frozenset()


def _cpuinfo() -> dict[str, str]:
    """Return what Linux says of the first core."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


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


def quick_linear() -> "Callable[[Tensor, Tensor, Tensor | None], Tensor] | None":
    """Return what multiplies float32 on this CPU faster than torch's own linear; None if nothing.

    torch multiplies float32 by MKL, which takes AVX-512 on Intel's CPUs alone and AVX2 on others;
    oneDNN, which torch carries too, takes what there is (benchmarks/LOG.md). Takes `x` (..., I),
    a weight (O, I), of any strides, and a bias (O); knows no gradients.
    """
    if _cpuinfo().get("vendor_id") == "GenuineIntel" or "avx512f" not in cpu_flags():
        return None
    import torch

    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return None
    return lambda x, weight, bias: torch.ops.mkldnn._linear_pointwise(
        x, weight, bias, "none", [], ""
    )


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
        torch.randn(1536, 384, device=device).to(dtype),
    )
    quick = None if bf16 or device == "cuda" else quick_linear()
    linear = quick or torch.nn.functional.linear
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        y = linear(x, w, None)
        float(y[0, 0])
        best = min(best, time.perf_counter() - start)
    torch.set_num_threads(before)
    return 2 * 1024 * 384 * 1536 / best
