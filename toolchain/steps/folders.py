"""Model folders given on the command line, as variants to verify, time or bundle."""

import json
from pathlib import Path

from toolchain.artifact import file_sha256
from toolchain.errors import UsageError
from toolchain.measurement import Role
from toolchain.steps.export import FP32, INT8
from toolchain.steps.variants import Variant

__all__ = ["labels_of", "max_tokens_of", "variant_of"]


def variant_of(folder: Path, name: str, *, role: Role = "student", parent: str = "") -> Variant:
    """Return the one model a folder holds: int8 ONNX before fp32 ONNX before PyTorch.

    Raises UsageError for a folder without any.
    """
    for file, precision in ((INT8, "int8"), (FP32, "fp32")):
        path = folder / file
        if path.is_file():
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
                published=file,
            )
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise UsageError(f"{folder}: holds no model.safetensors, {FP32} or {INT8}")
    return Variant(
        name=name,
        role=role,
        format="torch",
        precision="fp32",
        path=folder,
        digest=file_sha256(weights),
        parameters=0,
        parent=parent,
        published="model.safetensors",
    )


def labels_of(folder: Path) -> dict[int, str]:
    """Return the class names by id that the folder's config.json gives. Raises UsageError."""
    names = _config(folder).get("id2label")
    if not isinstance(names, dict) or not names:
        raise UsageError(f"{folder}: config.json names no classes (id2label)")
    return {int(key): str(value) for key, value in names.items()}


def max_tokens_of(folder: Path) -> int:
    """Return the number of positions the folder's model has. Raises UsageError."""
    limit = _config(folder).get("max_position_embeddings")
    if not isinstance(limit, int):
        raise UsageError(f"{folder}: config.json has no max_position_embeddings")
    return limit


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

    model = onnx.load(path, load_external_data=False)
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
