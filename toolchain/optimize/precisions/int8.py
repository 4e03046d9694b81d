"""Store weights as int8 and quantise activations as they come: no calibration data needed.

Measured on x86 with VNNI: one scale per tensor of weights costs accuracy, uint8 weights cost half
the speed, keeping the classifier in float gains neither speed nor accuracy.
"""

from pathlib import Path

from toolchain.optimize.dynamic import write_dynamic
from toolchain.optimize.precision import Calibration, Precision
from toolchain.optimize.transform import PassFacts

__all__ = ["precision", "write"]


def write(source: Path, out: Path, calibration: Calibration = ()) -> PassFacts:  # noqa: ARG001
    """Write `source` with int8 weights; see `write_dynamic`."""
    return write_dynamic(source, out, name="int8", reduced=False)


precision = Precision(write=write)
