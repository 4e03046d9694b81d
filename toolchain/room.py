"""Whether this machine's memory bears the export of a model, asked before its weights load.

Measured on classifiers of 2.2 and 2.4 GB in fp32, see docs/formats.md. Of small models what the
libraries take by themselves is more.
"""

from pathlib import Path

from toolchain import hardware
from toolchain.errors import ResourceError

__all__ = ["CALIBRATING", "EXPORTING", "QUANTISING", "check_room", "weights_of"]

# Times the bytes of the weights in fp32, at the peak; int8 takes 4.2 of them without a large table
# of words, 4.9 where one is half of the model. Precisions that look at texts hold the model
# they smooth and the one they try beside the one they were given; that was not measured.
EXPORTING = 4.2
QUANTISING = 4.9
CALIBRATING = 6.9


def weights_of(folder: Path) -> int:
    """Return the bytes of the weights of a Hugging Face folder, all shards together."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def check_room(weights: int, times: float, what: str) -> None:
    """Raise ResourceError where `times` the weights are more than the memory that is free."""
    needed, free = int(weights * times), hardware.free_bytes()
    if needed > free:
        raise ResourceError(
            f"{what} takes about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free",
            "do it on a machine with more, or make a smaller student",
        )
