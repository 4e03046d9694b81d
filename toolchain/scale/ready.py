"""DeepSpeed, imported when somebody asked for it, and the process group it runs in."""

import contextlib
import io
import logging
import os
import sysconfig
import warnings
from typing import Any

import torch

__all__ = ["import_deepspeed"]


def import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed without its talk, and start its process group.

    A process by itself becomes a group of one.
    """
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # Asked for even of a process by itself.
    os.environ.setdefault("LOCAL_RANK", "0")
    # Its build asks for ninja by name, which lies beside an interpreter that was not activated.
    scripts = sysconfig.get_path("scripts")
    if scripts not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] += os.pathsep + scripts
    # It prints what it builds, and stdout is for results.
    with contextlib.redirect_stdout(io.StringIO()):
        import deepspeed

        # It calls what newer versions of torch call otherwise.
        warnings.filterwarnings("ignore", message=".*torch.distributed", category=FutureWarning)
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=torch.distributed.HashStore(),  # type: ignore[attr-defined]
                rank=0,
                world_size=1,
            )
        deepspeed.init_distributed(dist_init_required=False, verbose=False)
    return deepspeed
