"""ONNX: one file for ONNX Runtime and its kin, or a graph with weights beside it beyond 2 GB.

Traced by torch.export.

The file is a pure function of the model: no date, no version, no stack trace, no path. Batch and
sequence are free, down to one row of one token. Attention is written as the four plain nodes it
is (MatMul, Add, Softmax, MatMul), which runtimes fuse as suits their device.
"""

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from torch import Tensor
from torch.export import Dim
from transformers import PreTrainedModel

from toolchain.errors import StepError, UsageError
from toolchain.export.answers import Answer, answer_of
from toolchain.export.attention import plain_attention
from toolchain.export.decoder import Decoder, cache_of, decoder_sample
from toolchain.export.exporter import Exporter, Signature, Source
from toolchain.export.function import Function, input_names
from toolchain.onnx_file import write_model
from toolchain.onnx_pair import data_of

__all__ = ["export", "exporter"]

_OPSETS = range(18, 22)
_AXES = ("batch", "sequence")


def export(
    model: PreTrainedModel,
    out: Path,
    *,
    opset: int = 20,
    sample: Mapping[str, Tensor] | None = None,
) -> Signature:
    """Write a model with a head as an ONNX file; twice the same model, twice the same bytes.

    Inputs are `input_ids`, `attention_mask` and, where the model has several token types,
    `token_type_ids`: all int64 (batch, sequence). The output is `logits`, float32: (batch, classes)
    of a sequence classifier, (batch, sequence, classes) of a model that answers per token. That of
    a sentence encoder is `sentence_embedding`, (batch, width). A causal
    language model has the inputs and outputs of `toolchain.export.decoder`. `model` is in eval mode
    with float32 weights; `sample` holds inputs to trace with, at least 2 rows of 2 tokens (made up
    when not given, and always for a causal language model).

    Weights that one file cannot hold lie beside it; see `toolchain.onnx_file`.

    Raises UsageError for another kind of model, opset or sample; StepError when the model cannot be
    traced.
    """
    answer = answer_of(model)
    _check(model, opset)
    call = _cached_call(model, answer) if answer.cached else _call(model, answer, sample)
    proto = _cleaned(_trace(call, opset), call)
    write_model(proto, out)
    try:
        # By path: the checker takes no message beyond 2 GB.
        onnx.checker.check_model(str(out))
    except onnx.checker.ValidationError as error:
        for path in (out, data_of(out)):
            path.unlink(missing_ok=True)
        raise StepError(f"{out}: the traced graph is not valid ONNX: {error}") from None
    return Signature(
        inputs=call.inputs,
        outputs=call.outputs,
        opset=opset,
        dynamic_axes=call.axes,
    )


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A model as a function: what it takes, what it gives, and tensors to trace it with."""

    module: torch.nn.Module
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    tensors: tuple[Tensor, ...]


def _call(model: PreTrainedModel, answer: Answer, sample: Mapping[str, Tensor] | None) -> _Call:
    names = input_names(model)
    return _Call(
        module=Function(model, names, answer.outputs).eval(),
        kind=type(model).__name__,
        inputs=names,
        outputs=answer.outputs,
        axes={**dict.fromkeys(names, _AXES), **dict.fromkeys(answer.outputs, answer.axes)},
        tensors=_sample(model, names, sample),
    )


def _cached_call(model: PreTrainedModel, answer: Answer) -> _Call:
    cache = cache_of(model)
    return _Call(
        module=Decoder(model).eval(),
        kind=type(model).__name__,
        inputs=("input_ids", "attention_mask", "position_ids", *cache.inputs),
        outputs=(*answer.outputs, *cache.outputs),
        axes={**cache.axes, **dict.fromkeys(answer.outputs, answer.axes)},
        tensors=decoder_sample(cache, int(model.config.vocab_size)),
    )


def _check(model: PreTrainedModel, opset: int) -> None:
    kind = type(model).__name__
    if opset not in _OPSETS:
        known = f"{_OPSETS.start} to {_OPSETS.stop - 1}"
        raise UsageError(f"export to onnx: opset {opset} is not supported, expected {known}")
    if model.training:
        raise UsageError(f"export to onnx: {kind} is in training mode", "call model.eval() first")
    other = {str(p.dtype) for p in model.parameters()} - {"torch.float32"}
    if other:
        raise UsageError(
            f"export to onnx: expected float32 weights, found {', '.join(sorted(other))}",
            "load the model with dtype=torch.float32",
        )


def _sample(
    model: PreTrainedModel, names: tuple[str, ...], given: Mapping[str, Tensor] | None
) -> tuple[Tensor, ...]:
    if given is None:
        # Sizes of one would be taken for constants.
        ids = torch.arange(2 * 7).reshape(2, 7) % model.config.vocab_size
        mask = torch.ones_like(ids)
        mask[1, 4:] = 0
        made = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids % 2}
        return tuple(made[name] for name in names)
    missing = [name for name in names if name not in given]
    if missing:
        raise UsageError(f"export to onnx: the sample lacks {missing[0]!r}")
    tensors = tuple(given[name] for name in names)
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dtype != torch.int64 or tensor.ndim != 2 or min(tensor.shape) < 2:
            raise UsageError(
                f"export to onnx: sample {name!r} is {tensor.dtype} {list(tensor.shape)}, "
                "expected torch.int64 of at least 2 rows and 2 tokens"
            )
    return tensors


def _trace(call: _Call, opset: int) -> ir.Model:
    free = [
        {axis: Dim.DYNAMIC for axis, name in enumerate(call.axes[given]) if name}
        for given in call.inputs
    ]
    # What a module takes as *args counts as one argument.
    own = len(inspect.signature(call.module.forward).parameters) - 1
    attention = torch.ops.aten.scaled_dot_product_attention.default
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                call.module,
                call.tensors,
                dynamo=True,
                opset_version=opset,
                input_names=call.inputs,
                output_names=call.outputs,
                dynamic_shapes=(*free[:own], tuple(free[own:])),
                custom_translation_table={attention: plain_attention},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ or error
        reason = str(cause).strip().split("\n", 1)[0]
        raise StepError(f"export to onnx: {call.kind} cannot be traced: {reason}") from error
    if program is None:
        raise StepError("export to onnx: the exporter returned no program")
    traced: ir.Model = program.model
    return traced


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says about itself; every other warning passes."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Raised by torch's own code about itself.
            warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
            yield
    finally:
        registration.setLevel(level)


def _cleaned(model: ir.Model, call: _Call) -> onnx.ModelProto:
    """Return the model as a message without anything that does not change what it computes."""
    proto: onnx.ModelProto = ir.to_proto(model)
    graph = proto.graph
    proto.producer_name, graph.name = "toolchain", "classifier"
    for described in (proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        described.ClearField("doc_string")
        del described.metadata_props[:]
    proto.ClearField("producer_version")
    # Inferred shapes bear names of the tracer's making, stop onnxruntime's quantiser, and let its
    # optimiser fuse residuals into SkipLayerNormalization, several times slower than the two ops.
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.dim_param = call.axes[value.name][axis]
    _strip_prefix(graph)
    return proto


def _strip_prefix(graph: onnx.GraphProto) -> None:
    """Give every weight the name it has in the checkpoint."""
    prefix = "model."
    for tensor in graph.initializer:
        tensor.name = tensor.name.removeprefix(prefix)
    for node in graph.node:
        node.input[:] = [name.removeprefix(prefix) for name in node.input]


def _write(source: Source, out: Path, precision: str) -> Signature:
    assert precision == "fp32", "other precisions are made from the fp32 file"
    return export(source.model(), out)


exporter = Exporter(runtime="onnxruntime", write=_write, files={"fp32": "onnx/model.onnx"})
