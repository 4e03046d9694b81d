"""Build the attention mask once, from the attention_mask input alone, in three nodes.

Tracers spell the same mask in up to twenty nodes of ranges, comparisons and gathers. Whatever they
wrote is run on probing masks; it is replaced only where it gives exactly 0 for open keys and the
lowest float32 for shut ones, whatever the query.
"""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper

from toolchain.optimize.attention import HEADS_SECOND, find_attentions, row_mask
from toolchain.optimize.graph import Builder, ancestors
from toolchain.optimize.rewrite import rewritten
from toolchain.optimize.transform import PassFacts

__all__ = ["apply", "rewrite"]

_MASK = "attention_mask"
_SHUT = np.float32(np.finfo(np.float32).min)
# The long one tells a full mask from one with a sliding window.
_PROBES = ((1, 1), (2, 5), (1, 1100))


def apply(source: Path, out: Path) -> PassFacts:
    """Write `source` with its mask built in three nodes. Raises what every pass raises."""
    return rewritten(source, out, {"additive_mask": rewrite})[0]


def rewrite(model: ir.Model) -> int:
    """Replace the mask of every attention; return how many masks were replaced."""
    graph = model.graph
    given = next((value for value in graph.inputs if value.name == _MASK), None)
    attentions = find_attentions(graph, HEADS_SECOND)
    if given is None or not attentions:
        return 0
    changed = 0
    built: ir.Value | None = None
    for mask in dict.fromkeys(attention.mask for attention in attentions):
        if row_mask(mask) is not None or not _is_plain(model, mask):
            continue
        built = built or _build(Builder(graph, "mask"), given)
        ir.convenience.replace_all_uses_with(mask, built)
        changed += 1
    return changed


def _build(builder: Builder, given: ir.Value) -> ir.Value:
    """Return (B, 1, 1, N) float32: 0 where a key may be read, the lowest float where not."""
    open_ = builder.node("Cast", [given], [ir.AttrInt64("to", ir.DataType.BOOL)])
    zero, shut = builder.hold(np.float32(0)), builder.hold(_SHUT)
    bias = builder.node("Where", [open_, zero, shut])
    return builder.node("Unsqueeze", [bias, builder.integers(1, 2)])


def _is_plain(model: ir.Model, mask: ir.Value) -> bool:
    """Run what makes `mask` and compare it with what it ought to be."""
    cone = _cone(model, mask)
    if cone is None:
        return False
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        cone.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    generator = np.random.default_rng(0)
    names = [value.name for value in session.get_inputs()]
    for rows, tokens in _PROBES:
        given = (generator.random((rows, tokens)) < 0.6).astype(np.int64)
        given[:, 0] = 1
        feed = {name: given for name in names}
        (found,) = session.run(None, feed)
        expected = np.where(given[:, None, None, :] == 1, np.float32(0), _SHUT)
        if found.ndim != 4 or found.shape[-1] != tokens or not bool((found == expected).all()):
            return False
    return True


def _cone(model: ir.Model, mask: ir.Value) -> onnx.ModelProto | None:
    """Return a model of its own that computes `mask`, or None when weights take part in it."""
    needed = ancestors([mask])
    nodes = [node for node in model.graph if node.outputs and node.outputs[0] in needed]
    held = [value for value in model.graph.initializers.values() if value in needed]
    if any(value.const_value is None or value.const_value.size > 2**16 for value in held):
        return None
    inputs = [value for value in model.graph.inputs if value in needed]
    if any(value.dtype != ir.DataType.INT64 for value in inputs):
        return None
    graph = helper.make_graph(
        [ir.to_proto(node) for node in nodes],
        "mask",
        [ir.to_proto(value) for value in inputs],
        [helper.make_tensor_value_info(str(mask.name), onnx.TensorProto.FLOAT, None)],
        [ir.to_proto(value.const_value) for value in held if value.const_value is not None],
    )
    opsets = [helper.make_opsetid(name, version) for name, version in model.opset_imports.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
