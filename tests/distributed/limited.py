"""`toolchain` on GPUs of which only so many bytes may be used. Arguments: bytes, then its own."""

import os
import sys

import torch

from toolchain.__main__ import main

if __name__ == "__main__":
    size, *words = sys.argv[1:]
    if torch.cuda.is_available():
        device = int(os.environ.get("LOCAL_RANK", "0"))
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, int(size) / total), device)
    sys.exit(main(words))
