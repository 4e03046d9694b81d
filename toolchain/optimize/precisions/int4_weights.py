"""Store weights and embeddings as blocks of 4 bits: the smallest file, most of all for decoders.

No calibration data needed. Norms and small tables stay as they are or in 8 bits.
"""

from pathlib import Path

from toolchain.onnx_file import size_of
from toolchain.optimize.blockwise import blockwise, tables_in_blocks
from toolchain.optimize.precision import Calibration, Precision
from toolchain.optimize.products import finish, plain_products, read_products
from toolchain.optimize.transform import PassFacts

__all__ = ["precision", "write"]


def write(source: Path, out: Path, calibration: Calibration = ()) -> PassFacts:  # noqa: ARG001
    """Write `source` with weights in blocks of 4 bits; equal sources give equal bytes.

    Raises UsageError for a file that is not whole ONNX, is quantised already, or has nothing to
    quantise.
    """
    proto = read_products(source)
    before = (len(proto.graph.node), size_of(proto))
    changed = tables_in_blocks(proto, 4) + blockwise(proto, plain_products(proto.graph), 4)
    return finish("int4_weights", before, proto, out, changed=changed)


precision = Precision(write=write)
