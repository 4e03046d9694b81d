"""Store weights and embeddings as blocks of 8 bits: a quarter of the file, answers next to equal.

No calibration data needed. On x86 slower than `int8`, and closer to fp32.
"""

from pathlib import Path

from toolchain.onnx_file import size_of
from toolchain.optimize.blockwise import blockwise, tables_in_blocks
from toolchain.optimize.precision import Calibration, Precision
from toolchain.optimize.products import finish, plain_products, read_products
from toolchain.optimize.transform import PassFacts

__all__ = ["precision", "write"]


def write(source: Path, out: Path, calibration: Calibration = ()) -> PassFacts:  # noqa: ARG001
    """Write `source` with weights in blocks of 8 bits; equal sources give equal bytes.

    Raises UsageError for a file that is not whole ONNX, is quantised already, or has nothing to
    quantise.
    """
    proto = read_products(source)
    before = (len(proto.graph.node), size_of(proto))
    changed = tables_in_blocks(proto, 8) + blockwise(proto, plain_products(proto.graph), 8)
    return finish("int8_weights", before, proto, out, changed=changed)


precision = Precision(write=write)
