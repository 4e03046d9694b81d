"""The steps from a trained model to files a runtime loads: export, then quantise."""

import gc
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from toolchain.artifact import Draft
from toolchain.errors import UsageError
from toolchain.export.exporter import ONNX, Signature, Source, exporters
from toolchain.export.genai import GENAI_CONFIG, genai_config
from toolchain.export.tokenizer import write_vocabulary
from toolchain.models.loading import load_model
from toolchain.models.sentence import FILES
from toolchain.onnx_pair import bytes_of, data_of
from toolchain.optimize.precision import Calibration, precisions
from toolchain.optimize.simplify import simplify
from toolchain.room import CALIBRATING, EXPORTING, QUANTISING, check_room, weights_of
from toolchain.spec import Task
from toolchain.steps.folders import task_of
from toolchain.steps.variants import FP32_FILE, onnx_file, onnx_files

__all__ = ["convert", "export", "quantize"]

_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)


def export(draft: Draft, *, source: Path) -> None:
    """Write the model in folder `source` as ONNX, with its configuration and tokenizer."""
    check_room(weights_of(source), EXPORTING, f"{source}: exporting it")
    task = task_of(source)
    target = draft.folder / FP32_FILE
    target.parent.mkdir(parents=True)
    plain = target.with_name("plain.onnx")
    signature, parameters = _traced(source, task, plain)
    passes_done = simplify(plain, target)
    # Graphs in memory are cycles, which hold all weights until they are looked for.
    gc.collect()
    for left in (plain, data_of(plain)):
        left.unlink(missing_ok=True)
    _copy(source, draft.folder, ("config.json", *_TOKENIZER))
    _describe(draft.folder, task, FP32_FILE)
    if (draft.folder / "tokenizer.json").is_file():
        write_vocabulary(draft.folder)
    draft.format, draft.precision = "onnx", "fp32"
    draft.facts.update(
        task=task,
        file=FP32_FILE,
        bytes=bytes_of(target),
        inputs=list(signature.inputs),
        opset=signature.opset,
        passes={facts.name: facts.changed for facts in passes_done},
        parameters=parameters,
    )


def _traced(source: Path, task: Task, out: Path) -> tuple[Signature, int]:
    """Write the plain graph; return how it is called, and the parameters of the model.

    What was loaded is gone when the passes begin, which hold the weights twice.
    """
    model = load_model(source, task)
    signature = exporters.get(ONNX).write(Source(model=lambda: model), out, "fp32")
    return signature, sum(p.numel() for p in model.parameters())


def quantize(draft: Draft, *, source: Path, precision: str, calibration: Calibration = ()) -> None:
    """Write the fp32 ONNX model in folder `source` in a precision, the rest copied along."""
    parent = source / FP32_FILE
    if not parent.is_file():
        for name in onnx_files(source):
            raise UsageError(
                f"{source}: quantising twice: it holds {name}, and no fp32 model",
                "give the fp32 model it was made from",
            )
        raise UsageError(f"{source}: holds no {FP32_FILE}", "give a folder written by export")
    times = CALIBRATING if precisions.get(precision).calibrated else QUANTISING
    check_room(bytes_of(parent), times, f"{source}: quantising it")
    file = onnx_file(precision)
    target = draft.folder / file
    target.parent.mkdir(parents=True)
    done = precisions.get(precision).write(parent, target, calibration)
    _copy(source, draft.folder, ("config.json", *_TOKENIZER))
    _describe(draft.folder, task_of(source), file)
    draft.format, draft.precision = "onnx", precision
    draft.facts.update(
        file=file, bytes=bytes_of(target), changed=done.changed, notes=list(done.notes)
    )


def _describe(folder: Path, task: Task, file: str) -> None:
    """Write what ONNX Runtime GenAI wants to know of a decoder."""
    if task == "causal_lm":
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / GENAI_CONFIG).write_text(genai_config(config, file), encoding="utf-8")


def convert(
    draft: Draft,
    *,
    format: str,
    precision: str,
    trained: Path,
    exported: Path,
    max_tokens: int,
    calibration: Calibration = (),
    onnx: Path | None = None,
) -> None:
    """Write the model of folder `trained`, and of `exported` as fp32 ONNX, in another format.

    `onnx` is the file in the same precision, for a format that converts it.
    """
    exporter = exporters.get(format)
    if precision not in exporter.files:
        raise UsageError(
            f"format {format} has no precision {precision!r}", f"it has {', '.join(exporter.files)}"
        )
    exporter.check_installed(format)
    file = exporter.files[precision]
    target = draft.folder / file
    target.parent.mkdir(parents=True)
    source = Source(
        model=lambda: load_model(trained, task_of(trained)),
        onnx=onnx or exported / FP32_FILE,
        texts=calibration,
        max_tokens=max_tokens,
    )
    signature = exporter.write(source, target, precision)
    _copy(exported, draft.folder, ("config.json", *_TOKENIZER))
    draft.format, draft.precision = format, precision
    files = [target, *(target.with_suffix(suffix) for suffix in exporter.beside)]
    draft.facts.update(
        file=file,
        bytes=sum(path.stat().st_size for path in files),
        inputs=list(signature.inputs),
        buckets=list(signature.buckets),
    )


def _copy(source: Path, folder: Path, names: Iterable[str]) -> None:
    for name in (*names, *FILES):
        if (source / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)
