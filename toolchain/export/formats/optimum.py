"""optimum's own ONNX files: written by optimum-onnx, where it is installed, to be compared with.

fp32 is its TorchScript export, int8 what its `avx512_vnni` dynamic quantisation makes of that, a
scale per channel. It wants transformers 4, so it lives in an environment of its own.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.errors import StepError, UsageError
from toolchain.export.exporter import Exporter, Signature, Source
from toolchain.export.quiet import quiet
from toolchain.models.found import declared_task
from toolchain.onnx_file import read_model, write_model

if TYPE_CHECKING:
    import onnx
    from transformers import PreTrainedModel

__all__ = ["exporter"]

_TASKS = {
    "classify": "text-classification",
    "multi_label": "text-classification",
    "regress": "text-classification",
    "tag": "token-classification",
    "qa": "question-answering",
    "mask_lm": "fill-mask",
}
_FILE, _INT8_FILE = "model.onnx", "model_quantized.onnx"


def _write(source: Source, out: Path, precision: str) -> Signature:
    """Write `out`. Raises UsageError for a model without a head, StepError where optimum fails."""
    model = source.model().eval()
    kind = type(model).__name__
    task = _TASKS.get(declared_task({"architectures": [kind]}))
    if task is None:
        raise UsageError(f"export to optimum: {kind} has no task that it is exported for")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            with quiet():
                file = _made(model, task, Path(folder), precision)
        # What goes wrong in it raises whatever the model's code or torch raises.
        except (RuntimeError, ValueError, TypeError, KeyError, NotImplementedError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StepError(
                f"export to optimum: {kind} cannot be exported: {type(error).__name__}: {reason}"
            ) from error
        proto = read_model(file)
    write_model(proto, out)
    return _signature(proto)


def _made(model: "PreTrainedModel", task: str, folder: Path, precision: str) -> Path:
    from optimum.exporters.onnx import onnx_export_from_model

    # Whether the answers are right is for our own gates to say.
    onnx_export_from_model(model=model, output=folder, task=task, do_validation=False)
    if precision == "fp32":
        return folder / _FILE
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    quantizer = ORTQuantizer.from_pretrained(folder, file_name=_FILE)
    quantizer.quantize(config, save_dir=folder / precision)
    return folder / precision / _INT8_FILE


def _signature(proto: "onnx.ModelProto") -> Signature:
    graph = proto.graph
    return Signature(
        inputs=tuple(value.name for value in graph.input),
        outputs=tuple(value.name for value in graph.output),
        opset=max(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")),
        dynamic_axes={
            value.name: tuple(dim.dim_param for dim in value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.output)
        },
    )


exporter = Exporter(
    runtime="onnxruntime",
    write=_write,
    files={"fp32": "optimum/model.onnx", "int8": "optimum/model_quantized.onnx"},
    packages=("optimum.exporters.onnx", "optimum.onnxruntime"),
    extra="optimum",
    constraints="constraints-compat.txt",
    engine="onnx",
    tasks=("classify", "multi_label", "regress", "tag", "qa", "mask_lm"),
)
