"""Products of int8 weights and activations that are quantised as they come, by onnxruntime.

Weights are symmetric int8 with one scale per output channel; activations uint8 with one scale per
tensor, found at run time. Embedding rows are gathered as int8 and only then turned to floats.
"""

import tempfile
from collections.abc import Collection
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from toolchain.onnx_file import read_model, size_of
from toolchain.onnx_pair import one_file_bytes
from toolchain.optimize.products import check, finish, fold_transposes, stacked
from toolchain.optimize.transform import PassFacts

__all__ = ["count", "dynamic", "write_dynamic"]


def dynamic(
    proto: onnx.ModelProto, *, keep: Collection[str] = (), reduced: bool = False
) -> onnx.ModelProto:
    """Return `proto`, which is used up, in dynamic int8 but for the nodes named in `keep`.

    `reduced` weights have 7 bits.
    """
    # The quantiser infers shapes itself and stumbles over shapes of weights that it transposes.
    del proto.graph.value_info[:]
    # Otherwise it advises, through the root logger, a preprocessing that these graphs had.
    onnx.helper.set_model_props(proto, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder) / "model.onnx"
        quantize_dynamic(
            proto,
            aside,
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=reduced,
            use_external_data_format=size_of(proto) > one_file_bytes(),
            nodes_to_exclude=[*stacked(proto.graph), *_scales(proto.graph), *keep],
        )
        return read_model(aside)


def _scales(graph: onnx.GraphProto) -> list[str]:
    """Return the Gathers of scales, one a row, which are exact for a reason."""
    single = {t.name for t in graph.initializer if list(t.dims)[1:] == [1]}
    return [n.name for n in graph.node if n.op_type == "Gather" and n.input[0] in single]


def count(proto: onnx.ModelProto) -> int:
    """Return how many products and tables are in int8."""
    kinds = ("MatMulInteger", "DequantizeLinear")
    return sum(node.op_type in kinds for node in proto.graph.node)


def write_dynamic(source: Path, out: Path, *, name: str, reduced: bool) -> PassFacts:
    """Write `source` in dynamic int8 for the precision `name`; equal sources give equal bytes.

    The outputs move: whether too far is for the gates to say, on real data. Raises UsageError for
    a file that is not whole ONNX, is quantised already, or has nothing to quantise.
    """
    proto = read_model(source)
    check(proto, source)
    before = (len(proto.graph.node), size_of(proto))
    fold_transposes(proto.graph)
    result = dynamic(proto, reduced=reduced)
    return finish(name, before, result, out, changed=count(result))
