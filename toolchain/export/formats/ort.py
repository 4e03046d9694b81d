"""ORT format (.ort): the ONNX file optimised once, here, for small builds of ONNX Runtime.

A reduced build has no ONNX parser and no optimiser, only the kernels that a list names: the lists
that `build.sh --minimal_build --include_ops_by_config` reads lie beside the file, operators alone
and operators with the types they are used with. It is made from the ONNX file of the same
precision, so that what was calibrated stays so. The runtime writes its tables in another order
each time: equal models give files of other bytes, and the same answers.
"""

import logging
import tempfile
import warnings
from pathlib import Path

from toolchain.artifact import write_atomic, writing_atomic
from toolchain.errors import StepError, UsageError
from toolchain.export.exporter import Exporter, Signature, Source
from toolchain.onnx_pair import bytes_of

__all__ = ["exporter"]

_OPERATORS, _TYPES = ".required_operators.config", ".required_operators_and_types.config"
# Offsets in a flatbuffer are signed and of 32 bits; the graph takes some room.
_MAX_BYTES = 2**31 - 2**24
# Fused operators of this level have kernels for every CPU, each of which picks its instructions
# when it runs. The level above, `all`, lays weights out in blocks as wide as the vectors of the CPU
# it is converted on: a file made on x86 would not load on ARM.
_LEVEL = "ORT_ENABLE_EXTENDED"


def _write(source: Source, out: Path, precision: str) -> Signature:
    """Write `out` and the lists beside it. Raises UsageError for what the format cannot hold."""
    if source.onnx is None:
        raise UsageError(f"export to ort: {precision} is made from the ONNX file, found none")
    size = bytes_of(source.onnx)
    if size > _MAX_BYTES:
        raise UsageError(
            f"export to ort: the model has {size} bytes, one .ort file holds at most {_MAX_BYTES}",
            "leave ort out, or ask for a smaller precision",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / out.name
        signature = _converted(source.onnx, made)
        for suffix, types in ((_OPERATORS, False), (_TYPES, True)):
            write_atomic(out.with_suffix(suffix), _listed(made, types=types))
        with writing_atomic(out) as file:
            file.write(made.read_bytes())
    return signature


def _converted(onnx: Path, out: Path) -> Signature:
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

    refused = (
        ort_errors.EPFail,
        ort_errors.Fail,
        ort_errors.InvalidArgument,
        ort_errors.InvalidGraph,
        ort_errors.InvalidProtobuf,
        ort_errors.NotImplemented,
        ort_errors.RuntimeException,
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVEL)
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        session = ort.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
    except refused as error:
        reason = " ".join(str(error).split())[:300]
        raise StepError(f"{onnx}: onnxruntime cannot convert it: {reason}") from None
    values = (*session.get_inputs(), *session.get_outputs())
    return Signature(
        inputs=tuple(value.name for value in session.get_inputs()),
        outputs=tuple(value.name for value in session.get_outputs()),
        opset=0,
        dynamic_axes={
            value.name: tuple(axis if isinstance(axis, str) else "" for axis in value.shape)
            for value in values
        },
    )


def _listed(model: Path, *, types: bool) -> str:
    """Return the operators of an .ort file as a build reads them, without where it lay."""
    from onnxruntime.tools.ort_format_model import create_config_from_models

    # It sets this level itself, to say where a temporary file lay.
    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "operators.config"
        with warnings.catch_warnings():
            # It leaves the file that it read to be closed when it is forgotten.
            warnings.simplefilter("ignore", ResourceWarning)
            create_config_from_models([model], file, types)
        lines = file.read_text(encoding="utf-8").splitlines()
    own = [line for line in lines if not line.startswith("#")]
    return "\n".join([f"# What {model.name} runs.", *own]) + "\n"


exporter = Exporter(
    runtime="onnxruntime",
    write=_write,
    files={
        "fp32": "ort/model.ort",
        "int8": "ort/model_quantized.ort",
        "int8_smooth": "ort/model_int8_smooth.ort",
        "int8_static": "ort/model_int8_static.ort",
        "int8_reduced": "ort/model_int8_reduced.ort",
    },
    beside=(_OPERATORS, _TYPES),
    calibrated=("int8_smooth", "int8_static"),
    tasks=("classify", "multi_label", "regress", "tag", "qa", "mask_lm"),
    converts=True,
)
