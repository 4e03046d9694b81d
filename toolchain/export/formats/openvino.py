"""OpenVINO: graph and weights for Intel's runtime, converted from our own fp32 ONNX file.

Lengths stay free. The graph's file (.xml) says in which precision it is to be computed and what
the digest of its weights (.bin) is, so that the one file stands for both. bf16 keeps weights in
fp16, which bf16's eight bits of mantissa lose nothing to, and is computed in bf16 where the CPU
has it. int8 is nncf's post-training quantisation with real texts, transformers' own pattern:
activations get fixed scales, so it needs them.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from toolchain.errors import StepError, UsageError
from toolchain.export.exporter import Exporter, Signature, Source
from toolchain.export.quiet import quiet

__all__ = ["exporter"]

_KEY = "toolchain"


def _write(source: Source, out: Path, precision: str) -> Signature:
    """Write `out` and the .bin beside it. Raises UsageError for a model without an ONNX file."""
    import openvino

    if source.onnx is None:
        raise UsageError("export to openvino: it is converted from the ONNX file, found none")
    try:
        model = openvino.Core().read_model(source.onnx)
    except RuntimeError as error:
        raise StepError(f"{source.onnx}: openvino cannot read it: {_reason(error)}") from None
    if precision == "int8":
        model = _quantised(model, source)
    if source.max_tokens:
        # The runtime answers whatever is read, beyond a model's positions too.
        model.set_rt_info(str(source.max_tokens), [_KEY, "max_tokens"])
    _save(model, out, precision)
    return Signature(
        inputs=tuple(port.any_name for port in model.inputs),
        outputs=tuple(port.any_name for port in model.outputs),
        opset=0,
        dynamic_axes={
            port.any_name: tuple(
                str(axis) if size.is_dynamic else "" for axis, size in enumerate(port.partial_shape)
            )
            for port in (*model.inputs, *model.outputs)
        },
    )


def _save(model: Any, out: Path, precision: str) -> None:
    import openvino

    out.parent.mkdir(parents=True, exist_ok=True)
    model.set_rt_info(precision, [_KEY, "precision"])
    halved = precision == "bf16"
    openvino.save_model(model, out, compress_to_fp16=halved)
    weights = hashlib.sha256(out.with_suffix(".bin").read_bytes()).hexdigest()
    # Only now is known what the graph's file says of them.
    model.set_rt_info(weights, [_KEY, "weights_sha256"])
    openvino.save_model(model, out, compress_to_fp16=halved)


def _quantised(model: Any, source: Source) -> Any:
    if not source.texts:
        raise UsageError("export to openvino: int8 looks at texts of the task, found none")
    with quiet():
        nncf = _without_telemetry()
        names = [port.any_name for port in model.inputs]
        rows = [{name: row[name] for name in names} for row in source.texts]
        return nncf.quantize(
            model,
            nncf.Dataset(rows),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(rows),
        )


def _without_telemetry() -> Any:
    """Import nncf so that it tells nobody that it is used: it looks at this when it is imported."""
    os.environ.setdefault("NNCF_CI", "1")
    import nncf

    return nncf


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


exporter = Exporter(
    runtime="openvino",
    write=_write,
    # Where optimum-intel and sentence-transformers look for them.
    files={
        "fp32": "openvino/openvino_model.xml",
        "bf16": "openvino/openvino_model_bf16.xml",
        "int8": "openvino/openvino_model_qint8_quantized.xml",
    },
    beside=(".bin",),
    packages=("openvino", "nncf"),
    extra="openvino",
    calibrated=("int8",),
    tasks=("classify", "multi_label", "regress", "tag", "qa", "mask_lm"),
)
