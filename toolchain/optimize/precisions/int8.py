"""Store weights as int8 and quantise activations as they come: no calibration data needed.

Measured on x86 with VNNI: one scale per tensor of weights costs accuracy, uint8 weights cost half
the speed, keeping the classifier in float gains neither speed nor accuracy.
"""

from pathlib import Path

from toolchain.optimize.dynamic import count, dynamic
from toolchain.optimize.graph import read_proto
from toolchain.optimize.precision import Calibration, Precision
from toolchain.optimize.products import check, finish, fold_transposes
from toolchain.optimize.transform import PassFacts

__all__ = ["precision", "write"]


def write(source: Path, out: Path, calibration: Calibration = ()) -> PassFacts:  # noqa: ARG001
    """Write `source` with int8 weights; equal sources give equal bytes.

    The outputs move: whether too far is for the gates to say, on real data. Raises UsageError for
    a file that is not whole ONNX, is quantised already, or has nothing to quantise.
    """
    proto = read_proto(source)
    check(proto, source)
    before = (len(proto.graph.node), proto.ByteSize())
    fold_transposes(proto.graph)
    result = dynamic(proto)
    return finish("int8", before, result, out, changed=count(result))


precision = Precision(write=write)
