"""Store weights as int8 like `int8_smooth`, but for the products that int8 still harms most.

Which ones is measured on texts of the task: the outputs' move with one product in int8 ranks them,
and as few as reach the closeness asked for stay out: in blocks of 8 bits, or in fp32 where only
that is close enough.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import onnx

from toolchain.onnx_file import size_of
from toolchain.optimize.blockwise import blockwise
from toolchain.optimize.dynamic import count, dynamic
from toolchain.optimize.precision import Calibration, Precision
from toolchain.optimize.products import finish, groups, plain_products, read_products
from toolchain.optimize.sensitivity import Array, Sensitivity
from toolchain.optimize.smoothing import smooth
from toolchain.optimize.tables import gathers, rows_in_int8
from toolchain.optimize.texts import Texts, answers, closeness, flows, split
from toolchain.optimize.transform import PassFacts

__all__ = ["CLOSE", "precision", "write"]

CLOSE = 0.99999
"""The cosine of all logits with fp32 on texts held back that is to be reached: 0.45 % apart.

Tables in int8 alone may be farther: then twice as far as these.
"""

_STRENGTH = 0.7
# Texts that each product is tried on by itself.
_TRIED = 16


def write(source: Path, out: Path, calibration: Calibration = ()) -> PassFacts:
    """Write `source` in int8 but for its most sensitive products; the notes name them.

    Raises UsageError for a file that is not whole ONNX, is quantised already, or has nothing to
    quantise, and for fewer than two texts.
    """
    texts = split(calibration, "int8_mixed")
    proto = read_products(source)
    before = (len(proto.graph.node), size_of(proto))
    called = {node.output[0]: node.input[1] for node in plain_products(proto.graph)}
    wanted = answers(proto, texts.held)
    smooth(proto, flows(proto, list(groups(proto.graph)), texts.read), _STRENGTH)
    tables = rows_in_int8(proto.graph, gathers(proto.graph))
    model = Sensitivity(proto)
    goal = min(CLOSE, 2 * closeness(model.answers(texts.held, ()), wanted) - 1)
    spared = _spared(model, texts, wanted, goal)
    result, kept = _mixed(proto, spared), "blocks"
    close = closeness(answers(result, texts.held), wanted)
    if spared and close < goal:
        # A block of activations shares a scale, too, which an extreme outlier spoils.
        other = _mixed(proto, spared, blocks=False)
        exact = closeness(answers(other, texts.held), wanted)
        if exact > close:
            result, close, kept = other, exact, "fp32"
    said = (
        f"{len(spared)} of {len(called)} products in {kept}; cosine {close:.5f} with fp32 on "
        f"{len(texts.held)} texts held back, {goal:.5f} asked for"
    )
    stayed = tuple(f"in {kept}: {name} ({called[name]})" for name in spared)
    notes = (said, *stayed, *texts.notes)
    changed = tables + count(result)
    return finish("int8_mixed", before, result, out, changed=changed, notes=notes)


def _mixed(
    proto: onnx.ModelProto, spared: Sequence[str], *, blocks: bool = True
) -> onnx.ModelProto:
    """Return the model in dynamic int8, but for the products that make `spared`."""
    names = [node.name for node in plain_products(proto.graph) if node.output[0] in spared]
    result = dynamic(copy.deepcopy(proto), keep=names)
    if blocks:
        kept = [node for node in plain_products(result.graph) if node.output[0] in spared]
        blockwise(result, kept, 8)
    return result


def _spared(model: Sensitivity, texts: Texts, wanted: Array, goal: float) -> Sequence[str]:
    """Return the fewest of the most sensitive products without which int8 is close enough."""
    tried = texts.read[:_TRIED]
    alone = model.answers(tried, ())
    moved = {name: 1 - closeness(model.answers(tried, (name,)), alone) for name in model.names}
    ranked = sorted(model.names, key=lambda name: -moved[name])
    low, high = 0, len(ranked)
    while low < high:
        middle = (low + high) // 2
        if closeness(model.answers(texts.held, ranked[middle:]), wanted) >= goal:
            high = middle
        else:
            low = middle + 1
    return ranked[:low]


precision = Precision(write=write, calibrated=True)
