"""What a precision must offer, and where precisions are found by name.

A precision is a module of `toolchain.optimize.precisions` (or of the entry-point group
`toolchain.precisions`); its name is what recipes and targets call it. fp32 is no module: it is what
every precision is made from and proved against.

Shape letters: B batch, N tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from toolchain.optimize.transform import PassFacts
from toolchain.registry import Registry

__all__ = ["FP32", "Calibration", "Precision", "Write", "precisions"]

FP32 = "fp32"

Calibration = Sequence[Mapping[str, NDArray[np.int64]]]
"""Real texts as the model reads them: inputs by name, each (1, N), one text after another."""


class Write(Protocol):
    """Reads one fp32 .onnx file and writes another that holds or computes in fewer bits."""

    def __call__(self, source: Path, out: Path, calibration: Calibration) -> PassFacts:
        """Write `source` to `out` with the same inputs and outputs; equal inputs, equal bytes.

        The outputs move: whether too far is for the gates to say, on real data. Raises UsageError
        for a file it cannot take, is quantised already or has nothing to quantise, and where it
        needs texts and is given none.
        """


@dataclass(frozen=True, kw_only=True)
class Precision:
    """One way to store and compute a model; `calibrated` ones look at real texts first."""

    write: Write
    calibrated: bool = False


precisions: Registry[Precision] = Registry(
    "precision", "toolchain.optimize.precisions", "precision"
)
