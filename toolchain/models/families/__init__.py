"""One file per architecture: where things live in it, nothing else."""
