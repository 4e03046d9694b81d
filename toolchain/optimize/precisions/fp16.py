"""Store weights as fp16, and compute in fp16 where the runtime can: half the file.

Inputs and outputs keep their types. Squares and means, which overflow where |x| > 255, stay fp32
until a root or a bounded function makes them small again; masks become -30,000, which a softmax
can't tell from less. Most x86 kernels turn fp16 back into fp32: there the gain is the file's.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from toolchain.errors import UsageError
from toolchain.onnx_file import bare, read_model, size_of
from toolchain.optimize.precision import Calibration, Precision
from toolchain.optimize.products import check, finish
from toolchain.optimize.transform import PassFacts

__all__ = ["precision", "write"]

_WIDE = frozenset({"Pow", "ReduceMean", "ReduceSum", "ReduceL2", "CumSum", "Range"})
_SMALL = frozenset({"Erf", "Reciprocal", "Sigmoid", "Softmax", "Sqrt", "Tanh"})
_LARGEST = 3e4
_HALF, _FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def write(source: Path, out: Path, calibration: Calibration = ()) -> PassFacts:  # noqa: ARG001
    """Write `source` in fp16; equal sources give equal bytes.

    Raises UsageError for a file that is not whole ONNX, is in fewer bits already, has no matrix
    product, or branches, which exported models do not.
    """
    proto = read_model(source)
    check(proto, source)
    before = (len(proto.graph.node), size_of(proto))
    if any(a.type == onnx.AttributeProto.GRAPH for n in proto.graph.node for a in n.attribute):
        raise UsageError(f"{source}: holds a graph inside a node, which fp16 does not take")
    changed = _Halving(proto).run()
    return finish("fp16", before, proto, out, changed=changed)


class _Halving:
    """One conversion: which values are floats, and in which of both types each exists."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._graph = proto.graph
        # Of the tensors it needs types alone, and of small ones what they hold.
        typed = onnx.shape_inference.infer_shapes(bare(proto)).graph
        values = (*typed.input, *typed.value_info, *typed.output)
        floats = {v.name for v in values if v.type.tensor_type.elem_type == _FLOAT}
        self._held = {t.name: t for t in proto.graph.initializer if t.data_type == _FLOAT}
        self._floats = floats | set(self._held)
        self._given = {value.name for value in proto.graph.input}
        # The name of each value as fp16 and as fp32, once it exists.
        self._known: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._wide: set[str] = set()

    def run(self) -> int:
        """Convert the graph in place; return how many tensors are held in fp16."""
        results = {value.name for value in self._graph.output}
        for name in self._given & self._floats:
            self._known[name, _FLOAT] = name
        for node in self._graph.node:
            self._convert(node)
        for name in sorted(results & self._floats):
            if self._known.get((name, _FLOAT)) != name:
                half = f"{name}_half"
                self._rename(name, half)
                self._nodes.append(_cast(half, name, _FLOAT))
        halves = [_half(t) for t in self._held.values() if (t.name, _HALF) in self._known]
        wide = {name for node in self._nodes for name in node.input}
        kept = [t for t in self._graph.initializer if t.name in wide and t.name in self._held]
        others = [t for t in self._graph.initializer if t.name not in self._held]
        copies = [TensorProto.FromString(t.SerializeToString()) for t in (*kept, *others)]
        del self._graph.initializer[:]
        self._graph.initializer.extend([*copies, *halves])
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        return len(halves)

    def _convert(self, node: onnx.NodeProto) -> None:
        made = [name for name in node.output if name in self._floats]
        read = [name for name in node.input if name in self._floats]
        if node.op_type == "Constant" and made:
            (value,) = node.attribute
            if value.name == "value":
                tensor = TensorProto()
                tensor.CopyFrom(value.t)
            else:
                tensor = numpy_helper.from_array(
                    np.asarray(helper.get_attribute_value(value), np.float32)
                )
            tensor.name = node.output[0]
            self._graph.initializer.append(tensor)
            self._held[tensor.name] = tensor
            return
        spreads = any(name in self._wide for name in read)
        wide = node.op_type in _WIDE or (spreads and node.op_type not in _SMALL)
        # A function that makes numbers small reads them wide and gives them back narrow.
        kind = _FLOAT if wide or spreads else _HALF
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name in self._floats:
                copied.input[place] = self._as(name, kind)
        if kind == _HALF and made:
            _retype(copied)
        self._nodes.append(copied)
        for name in made:
            self._known[name, kind] = name
            if wide:
                self._wide.add(name)

    def _as(self, name: str, kind: int) -> str:
        """Return the name under which a float value has a type, cast where it has the other."""
        if (name, kind) in self._known:
            return self._known[name, kind]
        suffix = "half" if kind == _HALF else "float"
        if name in self._held:
            found = f"{name}_half" if kind == _HALF else name
        else:
            found = f"{name}_{suffix}"
            self._nodes.append(_cast(name, found, kind))
        self._known[name, kind] = found
        return found

    def _rename(self, old: str, new: str) -> None:
        for node in self._nodes:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]


def _half(tensor: TensorProto) -> TensorProto:
    values = numpy_helper.to_array(tensor).clip(-_LARGEST, _LARGEST).astype(np.float16)
    return numpy_helper.from_array(values, f"{tensor.name}_half")


def _cast(given: str, made: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [given], [made], name=f"{made}_Cast", to=kind)


def _retype(node: onnx.NodeProto) -> None:
    """Make a node that names its type make fp16."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
            attribute.i = _HALF
        if node.op_type == "ConstantOfShape" and attribute.name == "value":
            value = numpy_helper.to_array(attribute.t).clip(-_LARGEST, _LARGEST)
            attribute.t.CopyFrom(numpy_helper.from_array(value.astype(np.float16)))


precision = Precision(write=write)
