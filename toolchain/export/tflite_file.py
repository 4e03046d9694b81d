"""A .tflite file without what is said more than once.

Converters write the scales of a table anew for every signature that reads it, and call each tensor
by its whole path through the modules: a tenth of a small int8 file, which every phone downloads.
"""

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["slim"]

# What one flatbuffer holds; files beyond it keep their weights behind it, and stay as they are.
_MOST_BYTES = 2**31 - 2**24
_IDENTIFIER = b"TFL3"
# As LiteRT asks of weights.
_ALIGNMENT = 16


def slim(path: Path) -> None:
    """Rewrite the file in place: the same graphs and weights, each set of scales once, short names.

    Names of inputs and outputs stay. A file over 2 GiB is left as it is.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    if path.stat().st_size > _MOST_BYTES:
        return
    content = path.read_bytes()
    model: Any = schema.ModelT.InitFromPackedBuf(content, 0)
    shared: dict[tuple[object, ...], int] = {}
    number = 0
    for graph in model.subgraphs:
        known = {*graph.inputs, *graph.outputs}
        for index, tensor in enumerate(graph.tensors):
            if tensor.quantization is not None:
                tensor.quantization = _Shared(tensor.quantization, shared)
            if index not in known:
                tensor.name = f"t{number}"
            number += 1
    model.buffers = [_Aligned(buffer, content) for buffer in model.buffers]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    aside = path.with_name(f".{path.name}.slim")
    aside.write_bytes(builder.Output())
    aside.replace(path)


class _Shared:
    """Scales and zero points that are written once, whoever has the same."""

    def __init__(self, own: Any, shared: dict[tuple[object, ...], int]) -> None:
        self._own = own
        self._shared = shared

    def Pack(self, builder: Any) -> int:
        own = self._own
        if own.details is not None:
            return int(own.Pack(builder))
        arrays = (own.min, own.max, own.scale, own.zeroPoint)
        held = tuple(None if a is None else np.asarray(a).tobytes() for a in arrays)
        key = (*held, own.quantizedDimension)
        if key not in self._shared:
            self._shared[key] = int(own.Pack(builder))
        return self._shared[key]


class _Aligned:
    """Weights within the flatbuffer, where a runtime may read them as they lie."""

    def __init__(self, own: Any, content: bytes) -> None:
        self._own = own
        # Quantised weights lie behind the flatbuffer, as those of files over 2 GiB have to.
        if own.size:
            own.data = np.frombuffer(content, np.uint8, own.size, own.offset)
            own.offset = own.size = 0

    def Pack(self, builder: Any) -> int:
        if self._own.data is not None:
            builder.Prep(_ALIGNMENT, len(self._own.data))
        return int(self._own.Pack(builder))
