"""The steps from a trained model to files a runtime loads: export, then quantise."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from toolchain.artifact import Draft
from toolchain.errors import UsageError
from toolchain.export.exporter import exporters
from toolchain.models.loading import load_model
from toolchain.optimize.simplify import simplify
from toolchain.optimize.transform import passes
from toolchain.steps.folders import task_of
from toolchain.steps.variants import FP32, INT8

__all__ = ["export", "model_file", "quantize"]

_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)


def model_file(folder: Path) -> Path:
    """Return the ONNX file of an exported or quantised folder. Raises UsageError without one."""
    for name in (INT8, FP32):
        if (folder / name).is_file():
            return folder / name
    raise UsageError(
        f"{folder}: holds neither {FP32} nor {INT8}", "give a folder written by export or quantize"
    )


def export(draft: Draft, *, source: Path) -> None:
    """Write the model in folder `source` as ONNX, with its configuration and tokenizer."""
    task = task_of(source)
    model = load_model(source, task)
    target = draft.folder / FP32
    target.parent.mkdir(parents=True)
    plain = target.with_name("plain.onnx")
    signature = exporters.get("onnx")(model, plain)
    passes_done = simplify(plain, target)
    plain.unlink()
    _copy(source, draft.folder, ("config.json", *_TOKENIZER))
    draft.format, draft.precision = "onnx", "fp32"
    draft.facts.update(
        task=task,
        file=FP32,
        bytes=target.stat().st_size,
        inputs=list(signature.inputs),
        opset=signature.opset,
        passes={facts.name: facts.changed for facts in passes_done},
        parameters=sum(p.numel() for p in model.parameters()),
    )


def quantize(draft: Draft, *, source: Path) -> None:
    """Write the fp32 ONNX model in folder `source` with int8 weights, the rest copied along."""
    parent = source / FP32
    if not parent.is_file():
        raise UsageError(f"{source}: holds no {FP32}", "give a folder written by export")
    target = draft.folder / INT8
    target.parent.mkdir(parents=True)
    passes.get("int8_dynamic")(parent, target)
    _copy(source, draft.folder, ("config.json", *_TOKENIZER))
    draft.format, draft.precision = "onnx", "int8"
    draft.facts.update(file=INT8, bytes=target.stat().st_size)


def _copy(source: Path, folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
