"""How many processes run this command, and which one this is, as launchers say in the environment.

Imports no torch: plans and the command line ask.
"""

import os

__all__ = ["is_main", "local_ranks", "rank", "ranks"]


def rank() -> int:
    """Return this process's number."""
    return int(os.environ.get("RANK", "0"))


def ranks() -> int:
    """Return how many processes run this command."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_ranks() -> int:
    """Return how many of them share this machine."""
    # As torch's launcher says it, and as DeepSpeed's does; others start all of them here.
    said = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE")
    return int(said or ranks())


def is_main() -> bool:
    """Return whether this process speaks and writes."""
    return rank() == 0
