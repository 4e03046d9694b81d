"""ONNX models as files: read whole, and written as one file or as a graph with weights beside it.

In memory a model may be larger than a file may be, but it cannot be serialised then: whoever wants
its size, its shapes or a session asks here or `toolchain.optimize.opened`.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx.external_data_helper import load_external_data_for_model

from toolchain.artifact import file_sha256, write_atomic, writing_atomic
from toolchain.errors import IntegrityError, UsageError
from toolchain.onnx_pair import WEIGHTS_SHA256, data_of, one_file_bytes

__all__ = ["bare", "check_weights", "outside", "read_model", "size_of", "write_model"]

# Beyond it protobuf serialises nothing, not even to count the bytes.
_MESSAGE_BYTES = 2**31 - 2**24
# Smaller tensors stay in the graph: shapes, axes and scales, which readers of the graph want.
_SMALLEST = 1024
# Runtimes map large tensors into memory, which works from a page on.
_PAGE, _PAGED = 4096, 2**20
_ALIGNED = 64


def read_model(path: Path) -> onnx.ModelProto:
    """Read and check one model, with the weights that lie in files beside it, if any.

    None outside its folder is opened. Raises UsageError for anything else, IntegrityError for
    weights that are not those the graph states the digest of.
    """
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
        if any(outside(tensor) for tensor in proto.graph.initializer):
            if any(entry.key == WEIGHTS_SHA256 for entry in proto.metadata_props):
                check_weights(path, proto)
            # By path, where the checker looks for the weights as well.
            onnx.checker.check_model(str(path))
            load_external_data_for_model(proto, str(path.parent))
            for tensor in proto.graph.initializer:
                tensor.ClearField("data_location")
            _forget_digest(proto)
        else:
            onnx.checker.check_model(proto)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise UsageError(f"{path}: not a whole ONNX file: {reason}") from None
    return proto


def write_model(proto: onnx.ModelProto, out: Path) -> None:
    """Write a model: as one file, or beyond `one_file_bytes` as a graph with weights beside it.

    Equal models give equal bytes. At no moment does a graph bear the name of weights that are not
    its own.
    """
    data = data_of(out)
    if size_of(proto) <= one_file_bytes():
        write_atomic(out, proto.SerializeToString(deterministic=True))
        data.unlink(missing_ok=True)
        return
    graph = bare(proto)
    kept = [t for t in proto.graph.initializer if _goes_out(t)]
    out.unlink(missing_ok=True)
    digest = _write_weights(kept, graph, data)
    _forget_digest(graph)
    graph.metadata_props.add(key=WEIGHTS_SHA256, value=digest)
    write_atomic(out, graph.SerializeToString(deterministic=True))


def check_weights(path: Path, proto: onnx.ModelProto) -> Path | None:
    """Return the file with the weights of a graph, or None where they are in it.

    `proto` is the graph of the file `path`, read without its weights. Raises UsageError for weights
    that are spread, lie elsewhere or have no digest in the graph, IntegrityError for others than
    those it was written with.
    """
    places = {
        entry.value
        for tensor in proto.graph.initializer
        if outside(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    if not places:
        return None
    stated = [entry.value for entry in proto.metadata_props if entry.key == WEIGHTS_SHA256]
    if places != {data_of(path).name} or not stated:
        raise UsageError(
            f"{path}: keeps weights in {', '.join(sorted(places))}, expected {data_of(path).name} "
            "and its digest in the graph",
            "write it with toolchain export or toolchain quantize",
        )
    data = data_of(path)
    if not data.is_file():
        raise IntegrityError(f"{path}: its weights, {data.name}, are missing", "export it again")
    if file_sha256(data) != stated[0]:
        raise IntegrityError(
            f"{data}: not the weights that {path.name} was written with", "export it again"
        )
    return data


def outside(tensor: onnx.TensorProto) -> bool:
    """Return whether a tensor's numbers lie in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def size_of(proto: onnx.ModelProto) -> int:
    """Return the bytes of a model in memory as they would be in files."""
    weights = sum(map(_raw_bytes, proto.graph.initializer))
    if weights < _MESSAGE_BYTES:
        return int(proto.ByteSize())
    return weights + int(bare(proto).ByteSize())


def bare(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose large tensors say that their numbers lie elsewhere, not yet where."""
    graph = onnx.ModelProto()
    _copy(proto, graph, leave="graph")
    _copy(proto.graph, graph.graph, leave="initializer")
    for tensor in proto.graph.initializer:
        entry = graph.graph.initializer.add()
        if _goes_out(tensor):
            _copy(tensor, entry, leave="raw_data")
            entry.data_location = onnx.TensorProto.EXTERNAL
        else:
            entry.CopyFrom(tensor)
    return graph


def _goes_out(tensor: onnx.TensorProto) -> bool:
    return _raw_bytes(tensor) >= _SMALLEST


def _raw_bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes of a tensor's raw numbers, from its shape: to touch them is to copy them."""
    return ir.serde.deserialize_tensor(tensor).nbytes if tensor.HasField("raw_data") else 0


def _copy(source: Message, target: Message, *, leave: str) -> None:
    """Copy every field but one, without making that one in between, as ListFields would."""
    for field in source.DESCRIPTOR.fields:
        if field.name == leave:
            continue
        if field.is_repeated:
            getattr(target, field.name).extend(getattr(source, field.name))
        elif not source.HasField(field.name):
            continue
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(getattr(source, field.name))
        else:
            setattr(target, field.name, getattr(source, field.name))


def _write_weights(kept: list[onnx.TensorProto], graph: onnx.ModelProto, data: Path) -> str:
    """Write numbers one after the other and say in the graph where; return the file's sha256."""
    state, at = hashlib.sha256(), 0
    entries: Iterator[onnx.TensorProto] = (t for t in graph.graph.initializer if outside(t))
    with writing_atomic(data) as file:
        for tensor, entry in zip(kept, entries, strict=True):
            raw = tensor.raw_data
            gap = bytes(-at % (_PAGE if len(raw) >= _PAGED else _ALIGNED))
            for part in (gap, raw):
                file.write(part)
                state.update(part)
            at += len(gap)
            for key, value in (("location", data.name), ("offset", at), ("length", len(raw))):
                entry.external_data.add(key=key, value=str(value))
            at += len(raw)
    return state.hexdigest()


def _forget_digest(proto: onnx.ModelProto) -> None:
    others = [(e.key, e.value) for e in proto.metadata_props if e.key != WEIGHTS_SHA256]
    del proto.metadata_props[:]
    for key, value in others:
        proto.metadata_props.add(key=key, value=value)
