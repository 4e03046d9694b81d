"""Store weights as int8 and quantise activations by ranges read from texts of the task beforehand.

Faster than finding them at run time, and the same for every row of a batch. How ranges are chosen
(extremes, percentile, least information lost) and how far outliers are moved into weights first is
decided by the closeness to fp32 on texts held back.
"""

import copy
from pathlib import Path

import onnx

from toolchain.errors import UsageError
from toolchain.optimize.precision import Calibration, Precision
from toolchain.optimize.products import finish, groups, read_products
from toolchain.optimize.smoothing import smooth
from toolchain.optimize.static import RANGES, static
from toolchain.optimize.texts import answers, closeness, flows, split
from toolchain.optimize.transform import PassFacts

__all__ = ["precision", "write"]

_STRENGTHS = (0.0, 0.7, 0.85)


def write(source: Path, out: Path, calibration: Calibration = ()) -> PassFacts:
    """Write `source` with int8 products of fixed ranges; the notes say which won, and how close.

    Raises UsageError for a file that is not whole ONNX, is quantised already, or has nothing to
    quantise, and for fewer than two texts.
    """
    texts = split(calibration, "int8_static")
    proto = read_products(source)
    flow = flows(proto, list(groups(proto.graph)), texts.read)
    wanted = answers(proto, texts.held)
    best: tuple[float, int, onnx.ModelProto, str] | None = None
    for strength in _STRENGTHS:
        smoothed = copy.deepcopy(proto)
        known = smooth(smoothed, flow, strength) if strength else flow
        for name, ranged in RANGES.items():
            candidate = copy.deepcopy(smoothed)
            changed = static(candidate, {value: ranged(one) for value, one in known.items()})
            close = closeness(answers(candidate, texts.held), wanted)
            if best is None or close > best[0]:
                moved = f", outliers moved by {strength:g}" if strength else ""
                best = close, changed, candidate, f"ranges: {name}{moved}"
    if best is None:
        raise UsageError(f"{source}: nothing to quantise: no matrix product has weights")
    close, changed, result, how = best
    said = f"{how}; cosine {close:.5f} with fp32 on {len(texts.held)} texts held back"
    return finish("int8_static", proto, result, out, changed=changed, notes=(said, *texts.notes))


precision = Precision(write=write, calibrated=True)
