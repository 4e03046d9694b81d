"""The steps from a trained model to files a runtime loads: export, then quantise."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from toolchain.artifact import Draft
from toolchain.errors import UsageError
from toolchain.export.exporter import exporters
from toolchain.export.tokenizer import write_vocabulary
from toolchain.models.loading import load_model
from toolchain.optimize.precision import Calibration, precisions
from toolchain.optimize.simplify import simplify
from toolchain.steps.folders import task_of
from toolchain.steps.variants import FP32_FILE, onnx_file

__all__ = ["export", "quantize"]

_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)


def export(draft: Draft, *, source: Path) -> None:
    """Write the model in folder `source` as ONNX, with its configuration and tokenizer."""
    task = task_of(source)
    model = load_model(source, task)
    target = draft.folder / FP32_FILE
    target.parent.mkdir(parents=True)
    plain = target.with_name("plain.onnx")
    signature = exporters.get("onnx")(model, plain)
    passes_done = simplify(plain, target)
    plain.unlink()
    _copy(source, draft.folder, ("config.json", *_TOKENIZER))
    if (draft.folder / "tokenizer.json").is_file():
        write_vocabulary(draft.folder)
    draft.format, draft.precision = "onnx", "fp32"
    draft.facts.update(
        task=task,
        file=FP32_FILE,
        bytes=target.stat().st_size,
        inputs=list(signature.inputs),
        opset=signature.opset,
        passes={facts.name: facts.changed for facts in passes_done},
        parameters=sum(p.numel() for p in model.parameters()),
    )


def quantize(draft: Draft, *, source: Path, precision: str, calibration: Calibration = ()) -> None:
    """Write the fp32 ONNX model in folder `source` in a precision, the rest copied along."""
    parent = source / FP32_FILE
    if not parent.is_file():
        raise UsageError(f"{source}: holds no {FP32_FILE}", "give a folder written by export")
    file = onnx_file(precision)
    target = draft.folder / file
    target.parent.mkdir(parents=True)
    precisions.get(precision).write(parent, target, calibration)
    _copy(source, draft.folder, ("config.json", *_TOKENIZER))
    draft.format, draft.precision = "onnx", precision
    draft.facts.update(file=file, bytes=target.stat().st_size)


def _copy(source: Path, folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
