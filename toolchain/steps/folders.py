"""Model folders given on the command line, as variants to verify, time or bundle."""

import json
from pathlib import Path
from typing import Literal

from toolchain.artifact import file_sha256
from toolchain.data.sources import TaskData, load_task
from toolchain.errors import UsageError
from toolchain.measurement import Role
from toolchain.models.family import family_of
from toolchain.models.found import declared_task
from toolchain.models.sentence import MODULES
from toolchain.models.shards import INDEX, SINGLE, weights_digest
from toolchain.recipe import Columns
from toolchain.spec import LANGUAGE, SEQUENCE, Task
from toolchain.steps.variants import FP32_FILE, Variant, onnx_files, other_files

__all__ = ["data_for", "labels_of", "max_tokens_of", "task_of", "variant_of"]


def variant_of(folder: Path, name: str, *, role: Role = "student", parent: str = "") -> Variant:
    """Return the one model a folder holds: quantised ONNX before fp32 ONNX before other formats
    before PyTorch.

    Raises UsageError for a folder without any.
    """
    for precision, path in onnx_files(folder).items():
        return Variant(
            name=name,
            role=role,
            format="onnx",
            precision=precision,
            path=path,
            digest=file_sha256(path),
            parameters=0,
            parent=parent,
            opset=_opset(path),
            published=path.relative_to(folder).as_posix(),
        )
    for format, precision, path in other_files(folder):
        return Variant(
            name=name,
            role=role,
            format=format,
            precision=precision,
            path=path,
            digest=file_sha256(path),
            parameters=0,
            parent=parent,
            published=path.relative_to(folder).as_posix(),
        )
    if not ((folder / SINGLE).is_file() or (folder / INDEX).is_file()):
        raise UsageError(f"{folder}: holds neither {SINGLE} nor {FP32_FILE}")
    return Variant(
        name=name,
        role=role,
        format="torch",
        precision="fp32",
        path=folder,
        digest=weights_digest(folder, str(folder)),
        parameters=0,
        parent=parent,
        published=SINGLE,
    )


def task_of(folder: Path) -> Task:
    """Return what the folder's model is for, by its config.json; "classify" for any classifier.

    One of sentence-transformers is for embeddings. Raises UsageError without config.json.
    """
    declared = declared_task(_config(folder))
    return "embed" if (folder / MODULES).is_file() else declared


def data_for(folder: Path, source: str) -> TaskData:
    """Load the task data that the folder's model is for. Raises UsageError for another task's."""
    task = task_of(folder)
    labels = None if task in LANGUAGE or task in ("embed", "qa") else labels_of(folder)
    data = load_task(source, columns=Columns(), teacher_labels=labels, task=_asked(task))
    fits = data.task in SEQUENCE if task in SEQUENCE else data.task == task
    if not fits:
        raise UsageError(f"{folder}: its model is for {task}, {source} holds rows for {data.task}")
    return data


def _asked(task: Task) -> Literal["auto", "causal_lm", "embed", "mask_lm", "qa"]:
    """Return what columns alone do not say: what running text is for."""
    if task == "causal_lm" or task == "mask_lm" or task == "embed" or task == "qa":
        return task
    return "auto"


def labels_of(folder: Path) -> dict[int, str]:
    """Return the class names by id that the folder's config.json gives. Raises UsageError.

    transformers leaves them out where they are its own names of two classes.
    """
    names = _config(folder).get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    if not isinstance(names, dict) or not names:
        raise UsageError(f"{folder}: config.json names no classes (id2label)")
    return {int(key): str(value) for key, value in names.items()}


def max_tokens_of(folder: Path) -> int:
    """Return the number of positions the folder's model has. Raises UsageError."""
    config = _config(folder)
    return family_of(str(config.get("model_type", ""))).spec(config).max_tokens


def _config(folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder}: no config.json") from None
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path}: expected an object")
    return found


def _opset(path: Path) -> int:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        raise UsageError(f"{path}: not an ONNX file", "export it again") from None
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
