"""Models in memory, opened by ONNX Runtime whatever their size."""

import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort

from toolchain.onnx_file import size_of, write_model
from toolchain.onnx_pair import one_file_bytes

__all__ = ["opened"]

_FATAL = 4


def opened(proto: onnx.ModelProto, *, optimised: bool = True) -> ort.InferenceSession:
    """Return a session of a model on one thread of the CPU.

    One that cannot be a message goes through files, which are gone when the session is there: it
    maps the weights into memory.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = _FATAL
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = ["CPUExecutionProvider"]
    if size_of(proto) <= one_file_bytes():
        return ort.InferenceSession(proto.SerializeToString(), options, providers=providers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_model(proto, path)
        return ort.InferenceSession(str(path), options, providers=providers)
