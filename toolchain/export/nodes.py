"""A graph written one node at a time, each call naming what it gives."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

__all__ = ["CUSTOM", "Nodes"]

CUSTOM = "ai.onnx.contrib"
"""The domain of onnxruntime-extensions' operators."""


class Nodes:
    """Nodes and constants under a prefix; `nodes` and `constants` are then parts of a graph."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[NodeProto] = []
        self.constants: dict[tuple[object, ...], TensorProto] = {}

    def add(
        self,
        op: str,
        *inputs: str,
        domain: str = "",
        outputs: int = 1,
        out: str | None = None,
        **attributes: int | str | bytes | GraphProto,
    ) -> str:
        """Add a node and return the name of its first output; others end in .1, .2, ..."""
        name = out or f"{self.prefix}{len(self.nodes)}.{op}"
        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        node = helper.make_node(op, list(inputs), names, name=name, domain=domain)
        node.attribute.extend(helper.make_attribute(key, attributes[key]) for key in attributes)
        self.nodes.append(node)
        return name

    def text(self, value: str) -> str:
        """Return the name of a constant of one text, (1,)."""
        return self.texts([value])

    def texts(self, values: Sequence[str]) -> str:
        """Return the name of a constant of texts, (len(values),)."""
        key = ("texts", *values)
        if key not in self.constants:
            name = f"{self.prefix}texts{len(self.constants)}"
            self.constants[key] = numpy_helper.from_array(np.array(values, dtype=object), name)
        return self.constants[key].name

    def number(self, value: int) -> str:
        """Return the name of a constant integer without axes."""
        return self.numbers(np.array(value, dtype=np.int64))

    def numbers(self, values: NDArray[np.int64] | Sequence[int] | Sequence[Sequence[int]]) -> str:
        """Return the name of a constant of integers."""
        array = np.asarray(values, dtype=np.int64)
        key = ("numbers", array.shape, array.tobytes())
        if key not in self.constants:
            name = f"{self.prefix}numbers{len(self.constants)}"
            self.constants[key] = numpy_helper.from_array(array, name)
        return self.constants[key].name

    def replace(self, text: str, pattern: str, by: str) -> str:
        """Replace what an RE2 pattern matches in each text of a tensor."""
        return self.add(
            "StringRegexReplace", text, self.text(pattern), self.text(by), domain=CUSTOM
        )

    def choose(
        self,
        condition: str,
        text: str,
        then: Callable[["Nodes", str], str],
        otherwise: Callable[["Nodes", str], str],
    ) -> str:
        """Compute one text (1,) from another in one of two ways; only that one is computed."""
        branches = {}
        for name, write in (("then_branch", then), ("else_branch", otherwise)):
            part = Nodes(f"{self.prefix}{len(self.nodes)}.{name}/")
            given = write(part, text)
            result = helper.make_tensor_value_info(given, TensorProto.STRING, [1])
            branches[name] = helper.make_graph(
                part.nodes, name, [], [result], list(part.constants.values())
            )
        return self.add("If", condition, **branches)
