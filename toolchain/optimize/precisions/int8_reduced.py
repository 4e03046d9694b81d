"""Store weights as int8 of 7 bits, for x86 with AVX2 and no VNNI, where int8 overflows.

There a product of unsigned activations and signed weights is summed by pairs in 16 bits
(`pmaddubsw`), which saturate: 2 x 255 x 127 is 64,770, and 32,767 comes out. With weights of at
most 64 the sum is 32,640 at the most. Costs a bit of every weight, saves nothing in size or time:
CPUs with VNNI or an ARM dot product want int8.
"""

from pathlib import Path

from toolchain.optimize.dynamic import write_dynamic
from toolchain.optimize.precision import Calibration, Precision
from toolchain.optimize.transform import PassFacts

__all__ = ["precision", "write"]


def write(source: Path, out: Path, calibration: Calibration = ()) -> PassFacts:  # noqa: ARG001
    """Write `source` with int8 weights of 7 bits; see `write_dynamic`."""
    return write_dynamic(source, out, name="int8_reduced", reduced=True)


precision = Precision(write=write)
