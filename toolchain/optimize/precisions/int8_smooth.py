"""Store weights as int8 and quantise activations as they come, outliers moved into weights first.

What `int8` loses it loses in a few large features of activations, which share one scale with all
the others. How far they are moved is decided by the closeness to fp32 on texts held back.
"""

import copy
from pathlib import Path

import onnx

from toolchain.onnx_file import size_of
from toolchain.optimize.dynamic import count, dynamic
from toolchain.optimize.precision import Calibration, Precision
from toolchain.optimize.products import finish, groups, read_products
from toolchain.optimize.smoothing import smooth
from toolchain.optimize.tables import gathers, rows_in_int8
from toolchain.optimize.texts import answers, closeness, flows, split
from toolchain.optimize.transform import PassFacts

__all__ = ["precision", "write"]

_STRENGTHS = (0.7, 0.8, 0.9)


def write(source: Path, out: Path, calibration: Calibration = ()) -> PassFacts:
    """Write `source` in dynamic int8 with outliers moved; the notes say how far, and how close.

    Raises UsageError for a file that is not whole ONNX, is quantised already, or has nothing to
    quantise, and for fewer than two texts.
    """
    texts = split(calibration, "int8_smooth")
    proto = read_products(source)
    before = (len(proto.graph.node), size_of(proto))
    flow = flows(proto, list(groups(proto.graph)), texts.read)
    wanted = answers(proto, texts.held)
    tables = rows_in_int8(proto.graph, gathers(proto.graph))
    found: list[tuple[float, float, onnx.ModelProto]] = []
    for strength in _STRENGTHS:
        candidate = copy.deepcopy(proto)
        smooth(candidate, flow, strength)
        result = dynamic(candidate)
        found.append((closeness(answers(result, texts.held), wanted), strength, result))
        # One copy of the weights at a time; of equals the first stays.
        found = [max(found, key=lambda one: one[0])]
    ((close, strength, result),) = found
    said = (
        f"outliers moved by {strength:g}; cosine {close:.5f} with fp32 on {len(texts.held)} texts "
        "held back"
    )
    notes = (said, *texts.notes)
    changed = tables + count(result)
    return finish("int8_smooth", before, result, out, changed=changed, notes=notes)


precision = Precision(write=write, calibrated=True)
