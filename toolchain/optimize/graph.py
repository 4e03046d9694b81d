"""ONNX graphs in memory: matched, rewritten, and left without leftovers."""

from collections.abc import Iterable, Sequence
from itertools import count

import numpy as np
import onnx
import onnx_ir as ir

__all__ = [
    "Builder",
    "ancestors",
    "constant",
    "held_tensor",
    "is_rowwise",
    "made_by",
    "sole_user",
    "tidy",
    "to_proto",
]

# Ops on (..., D) tensors whose every row of the output depends on that row of the inputs only.
_UNARY = frozenset({"Cast", "Erf", "Gelu", "Identity", "Relu", "Sigmoid", "Sqrt", "Tanh"})
_BINARY = frozenset({"Add", "Div", "Mul", "Pow", "Sub"})


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Return the model as a message without inferred shapes: a rewrite may have changed them."""
    proto: onnx.ModelProto = ir.to_proto(model)
    del proto.graph.value_info[:]
    return proto


def tidy(model: ir.Model) -> None:
    """Drop what nothing uses, and order nodes after what they read."""
    graph = model.graph
    graph.sort()
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def constant(value: ir.Value | None) -> np.ndarray | None:
    """Return a copy of what a value holds when the file says so, else None."""
    tensor = held_tensor(value)
    return None if tensor is None else tensor.numpy()


def held_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor a value holds when the file says so, else None.

    Its shape costs nothing; every look at its numbers copies them, seconds for a large table.
    """
    if value is None or value.is_graph_input():
        return None
    tensor = value.const_value
    if tensor is None and (node := made_by(value, "Constant")) is not None:
        attribute = node.attributes.get("value")
        tensor = attribute.as_tensor() if attribute is not None else None
    return tensor


def made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the node that makes `value` when it is one of these standard ops, else None."""
    node = value.producer() if value is not None else None
    if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in op_types:
        return None
    return node


def sole_user(value: ir.Value, op_type: str) -> ir.Node | None:
    """Return the only node that reads `value` when it is this standard op, else None."""
    users = {use.node for use in value.uses()}
    if len(users) != 1 or value.is_graph_output():
        return None
    (node,) = users
    return node if node.op_type == op_type and node.domain in ("", "ai.onnx") else None


def ancestors(values: Iterable[ir.Value | None]) -> set[ir.Value]:
    """Return these values and every value they are computed from."""
    found: set[ir.Value] = set()
    waiting = [value for value in values if value is not None]
    while waiting:
        value = waiting.pop()
        if value in found:
            continue
        found.add(value)
        node = value.producer()
        if node is not None:
            waiting += [v for v in node.inputs if v is not None]
    return found


def is_rowwise(node: ir.Node) -> bool:
    """Return whether each row (last axis) of the output is a function of the same input rows.

    Inputs that the file holds (weights, biases) do not count as rows.
    """
    if node.domain not in ("", "ai.onnx") or len(node.outputs) != 1:
        return False
    held = [held_tensor(value) for value in node.inputs]
    if node.op_type in _UNARY:
        return True
    if node.op_type in _BINARY:
        return all(tensor is None or len(tensor.shape) <= 1 for tensor in held)
    if node.op_type == "MatMul":
        return held[0] is None and held[1] is not None and len(held[1].shape) == 2
    if node.op_type == "LayerNormalization":
        axis = node.attributes.get("axis")
        last = axis is None or axis.as_int() == -1
        return last and all(tensor is not None for tensor in held[1:])
    return False


class Builder:
    """Appends nodes and constants to a graph under names that are free and repeatable."""

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self._graph = graph
        taken = {value.name for node in graph for value in node.outputs} | set(graph.initializers)
        numbered = (f"{prefix}_{number}" for number in count(1))
        self._names = (name for name in numbered if name not in taken)

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Iterable[ir.Attr] = (),
    ) -> ir.Value:
        """Append a node of one output and return that; `tidy` puts it where it belongs."""
        name = next(self._names)
        node = ir.Node("", op_type, inputs, attributes, name=name)
        node.outputs[0].name = name
        self._graph.append(node)
        return node.outputs[0]

    def again(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Value:
        """Append a copy of `node` that reads other inputs."""
        return self.node(node.op_type, inputs, node.attributes.values())

    def hold(self, array: np.ndarray | np.generic) -> ir.Value:
        """Add a constant to the graph."""
        name = next(self._names)
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        return value

    def integers(self, *numbers: int) -> ir.Value:
        """Add a one-dimensional int64 constant."""
        return self.hold(np.array(numbers, dtype=np.int64))
