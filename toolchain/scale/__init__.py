"""Models larger than a process: where they lie, what fits, sharded, streamed, cached teachers."""
