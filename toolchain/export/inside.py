"""One file that takes text: tokenizer and model in one graph, proved to read as they do apart.

Needs onnxruntime-extensions, here and where the file is run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from transformers import PreTrainedTokenizerFast

from toolchain.artifact import write_atomic
from toolchain.errors import UsageError
from toolchain.export.extensions import check_extensions
from toolchain.export.nodes import CUSTOM, Nodes
from toolchain.export.reading import Reading, read_reading
from toolchain.export.strange import strange_texts
from toolchain.export.text_graph import TEXT, text_graph
from toolchain.export.tokenizer import PROBES
from toolchain.models.loading import load_tokenizer
from toolchain.onnx_pair import data_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["LABEL", "Row", "open_text", "put_inside", "text_tokens"]

Row = tuple[str, ...]
"""One text, or the two texts of a pair."""

LABEL = "label"
"""The output beside the logits of a model whose rows have one label each: its name, (R,)."""

_MIN_OPSET, _IR_VERSION = 20, 10
_STRANGE, _ANSWERED, _BATCH = 512, 64, 32
# Both sides run the same operators on the same ids.
_TOLERANCE = 1e-5


def put_inside(
    model: Path,
    tokenizer: Path,
    out: Path,
    *,
    rows: Sequence[Row],
    max_tokens: int,
    labels: Sequence[str] = (),
) -> None:
    """Write to `out` what `model` becomes when it reads text by the tokenizer of a folder.

    Input is `text`: strings (R,) or, where `rows` are pairs, (R, 2). Outputs are the model's own
    and, with `labels`, each row's `label`. Proved on `rows`, real ones of the task, and on texts
    made to find differences: equal ids, and equal outputs of the real ones.

    Raises UsageError, whose message says why, where the graph would not read as the tokenizer does.
    """
    check_extensions()
    if data_of(model).is_file():
        raise UsageError(f"the model is no single file: its weights lie in {data_of(model).name}")
    texts = len(rows[0]) if rows else 1
    reading = read_reading(tokenizer)
    reference = load_tokenizer(tokenizer)
    tokens = text_tokens(reading, texts=texts, max_tokens=max_tokens)
    made = _made(reading, texts)
    _prove_tokens(tokens, reference, [*made, *rows], max_tokens)
    proto = _joined(onnx.load(str(model)), reading, texts, max_tokens, labels)
    write_atomic(out, proto.SerializeToString(deterministic=True))
    _prove_outputs(out, model, reference, rows[:_ANSWERED], max_tokens)


def text_tokens(reading: Reading, *, texts: int, max_tokens: int) -> "InferenceSession":
    """Open the graph without a model: `text` in, ids, mask and type ids out."""
    nodes, names = text_graph(reading, texts=texts, max_tokens=max_tokens)
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"])
        for name in names.values()
    ]
    graph = helper.make_graph(
        nodes.nodes, "tokenizer", [_input(texts)], outputs, list(nodes.constants.values())
    )
    return open_text(_model(graph, _MIN_OPSET).SerializeToString())


def open_text(model: bytes | Path) -> "InferenceSession":
    """Open a model with text operators on one thread."""
    import onnxruntime
    import onnxruntime_extensions

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _input(texts: int) -> onnx.ValueInfoProto:
    shape: list[str | int | None] = ["rows"] if texts == 1 else ["rows", texts]
    return helper.make_tensor_value_info(TEXT, TensorProto.STRING, shape)


def _model(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(CUSTOM, 1)]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="toolchain"
    )


def _joined(
    model: onnx.ModelProto, reading: Reading, texts: int, max_tokens: int, labels: Sequence[str]
) -> onnx.ModelProto:
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset < _MIN_OPSET:
        raise UsageError(f"its graph is of opset {opset}, text operators need {_MIN_OPSET}")
    inputs = [value.name for value in model.graph.input]
    nodes, names = text_graph(reading, texts=texts, max_tokens=max_tokens)
    unknown = sorted(set(inputs) - set(names))
    if unknown:
        raise UsageError(f"its model takes {unknown[0]}, which does not follow from one text")
    # The model's own names stay, so that quantised weights are found where they were.
    bound = [helper.make_node("Identity", [names[name]], [name]) for name in inputs]
    last = Nodes("label/")
    outputs = list(model.graph.output)
    if labels:
        best = last.add("ArgMax", outputs[0].name, axis=-1, keepdims=0)
        last.add("Gather", last.texts(labels), best, out=LABEL)
        outputs.append(helper.make_tensor_value_info(LABEL, TensorProto.STRING, ["rows"]))
    graph = helper.make_graph(
        [*nodes.nodes, *bound, *model.graph.node, *last.nodes],
        "text_model",
        [_input(texts)],
        outputs,
        [*nodes.constants.values(), *model.graph.initializer, *last.constants.values()],
    )
    joined = _model(graph, opset)
    known = {o.domain for o in joined.opset_import} | {"ai.onnx"}
    joined.opset_import.extend(o for o in model.opset_import if o.domain not in known)
    joined.functions.extend(model.functions)
    return joined


def _made(reading: Reading, texts: int) -> list[Row]:
    """Return rows made to find differences, of texts of their own and of tokens."""
    step = max(1, len(reading.vocabulary) // 256)
    pieces = [*reading.specials, *reading.vocabulary[::step]]
    made = [*PROBES, *strange_texts(_STRANGE, seed=0, pieces=pieces)]
    return [tuple(made[(i + j * 7) % len(made)] for j in range(texts)) for i in range(len(made))]


def _fed(rows: Sequence[Row]) -> dict[str, NDArray[np.object_]]:
    texts = [row[0] if len(row) == 1 else list(row) for row in rows]
    return {TEXT: np.array(texts, dtype=object)}


def _read(
    tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row], max_tokens: int
) -> dict[str, NDArray[np.int64]]:
    columns = [list(column) for column in zip(*rows, strict=True)]
    encoded = tokenizer(
        *columns,
        truncation="longest_first",
        max_length=max_tokens,
        padding="longest",
        return_token_type_ids=True,
        return_attention_mask=True,
        verbose=False,
    )
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: np.asarray(encoded[name], dtype=np.int64) for name in names}


def _prove_tokens(
    tokens: "InferenceSession",
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Row],
    max_tokens: int,
) -> None:
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        found, expected = tokens.run(None, _fed(batch)), _read(tokenizer, batch, max_tokens)
        if all(map(np.array_equal, found, expected.values())):
            continue
        for row in batch:
            alone = tokens.run(None, _fed([row]))
            if not all(map(np.array_equal, alone, _read(tokenizer, [row], max_tokens).values())):
                raise UsageError(f"a graph would read {row[0][:24]!r} unlike its tokenizer")
        raise UsageError("a graph would pad a batch unlike its tokenizer")


def _prove_outputs(
    out: Path,
    model: Path,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Row],
    max_tokens: int,
) -> None:
    # One row at a time: the scales of dynamic int8 cover a batch.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    apart = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names, outputs = [i.name for i in apart.get_inputs()], [o.name for o in apart.get_outputs()]
    whole = open_text(out)
    for row in rows:
        read = _read(tokenizer, [row], max_tokens)
        expected = apart.run(outputs, {name: read[name] for name in names})
        for one, other in zip(expected, whole.run(outputs, _fed([row])), strict=True):
            if not np.allclose(one, other, rtol=0, atol=_TOLERANCE):
                out.unlink()
                raise UsageError(f"the joined graph answers {row[0][:24]!r} unlike the model")
