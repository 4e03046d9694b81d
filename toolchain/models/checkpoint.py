"""A model folder inspected before any weight is loaded: configuration, header, digests.

Missing tensors and cut files are found in the headers, a few kilobytes. A flipped bit inside the
weights shows only against a recorded digest (our own manifest, or the blob names of the hub's
cache); where a folder has none, values that are not finite are all that can be found.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.artifact import MANIFEST, Artifact, file_sha256, folder_digest
from toolchain.errors import IntegrityError, UsageError
from toolchain.models.family import Family, family_of
from toolchain.models.found import found_task, has_lm_head, labels_of
from toolchain.models.sentence import FILES, Sentence, read_sentence
from toolchain.models.shards import Stored, read_header, weight_files
from toolchain.spec import LABELLED, ModelSpec, Task

__all__ = ["Checkpoint", "described", "inspect", "locate"]

_HUB_ID = re.compile(r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$")
_HUB_FILES = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "README.md",
    "LICENSE*",
    "modules.json",
    "sentence_bert_config.json",
    "[0-9]_*/config.json",
]
# How to read a number as a word, and the bits of its exponent.
_EXPONENT = {
    "F64": ("<u8", 0x7FF0000000000000),
    "F32": ("<u4", 0x7F800000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a model folder holds.

    `labels` names the classes of a classifier or tagger and is empty otherwise. `lm_head` says
    whether a language head is there, be it the token embeddings again. `notes` are sentences for
    the user. `sentence` says how its states become embeddings, where it is a model of
    sentence-transformers.
    """

    root: Path
    source: str
    family: Family
    config: Mapping[str, Any]
    spec: ModelSpec
    tensors: Mapping[str, tuple[int, ...]]
    labels: Mapping[int, str]
    digest: str
    bytes: int
    licence: str
    lm_head: bool
    notes: tuple[str, ...] = ()
    sentence: Sentence | None = None

    @property
    def task(self) -> Task:
        """What it can do as it is; "encode" for a bare model."""
        return self.spec.task

    @property
    def has_head(self) -> bool:
        """Whether it has a head for a labelled task."""
        return self.task in LABELLED


def locate(source: str, role: str = "teacher") -> Path:
    """Return the local folder of a path or hub id, fetching the latter (safetensors only)."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise UsageError(f"{role} {source}: a file, expected a model folder or a hub id")
    if not _HUB_ID.match(source):
        raise UsageError(f"{role} {source}: no such folder", "give a model folder or a hub id")
    # Imported here: a local folder must not need the hub client's second of start-up.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UsageError(
            f"{role} {source}: no such folder, and the hub did not give it: {reason}"
        ) from None


def inspect(source: str, role: str = "teacher") -> Checkpoint:
    """Read everything but the weights' values. Raises UsageError for a folder that can't be used.

    The weights are read once, for their digest and for values that are not finite. `role` is what
    the model is to its user, and begins the sentences of errors.
    """
    root = locate(source, role)
    where = f"{role} {source}"
    if not any(root.iterdir()):
        raise UsageError(f"{where}: the folder is empty", "give a folder with config.json")
    config = _config(root, where)
    files = weight_files(root, where)
    _check_manifest(root, where)
    _check_tokenizer(root, where)
    tensors: dict[str, tuple[int, ...]] = {}
    digests: dict[str, str] = {}
    for file in files:
        header = read_header(file, where)
        tensors.update({name: stored.shape for name, stored in header.items()})
        _check_finite(file, header, where)
        digests[file.name] = file_sha256(file)
        _check_blob(file, digests[file.name], where)
    for extra in ("config.json", "tokenizer.json", "vocab.txt", *FILES):
        if (root / extra).is_file():
            digests[extra] = file_sha256(root / extra)
    family = family_of(str(config.get("model_type", "")))
    try:
        spec = family.spec(config)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from None
    tied = spec.parts.tied
    task = found_task(config, family, tensors, tied=tied, where=where)
    sentence = None if family.causal else _sentence(root, where)
    if sentence is not None:
        task = "embed"
    labels = labels_of(config, family, tensors, task, where=where)
    spec = replace(spec, task=task, num_labels=1 if task == "regress" else len(labels))
    problem = spec.problem()
    if problem:
        raise UsageError(f"{where}: config.json: {problem}")
    _check_tensors(family, spec, tensors, where)
    return Checkpoint(
        root=root,
        source=source,
        family=family,
        config=config,
        spec=spec,
        tensors=tensors,
        labels=labels,
        digest=folder_digest(digests),
        bytes=sum(file.stat().st_size for file in files),
        licence=_licence(root),
        lm_head=has_lm_head(family, tensors, tied=tied),
        notes=_notes(root, family),
        sentence=sentence,
    )


def _sentence(root: Path, where: str) -> Sentence | None:
    try:
        return read_sentence(root)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from None


def described(source: str) -> tuple[Family, Mapping[str, Any]]:
    """Read a configuration and no weights: of a folder, a config.json or a hub id.

    Raises UsageError for one that cannot be used.
    """
    where, path = f"teacher {source}", Path(source)
    if path.is_dir():
        path = path / "config.json"
    elif not path.exists() and _HUB_ID.match(source):
        path = _hub_config(source, where)
    elif not path.exists():
        raise UsageError(
            f"{where}: no such folder or file", "give a model folder, a config.json or a hub id"
        )
    config = _read_config(path, where)
    return family_of(str(config["model_type"])), config


def _hub_config(source: str, where: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(source, "config.json"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UsageError(
            f"{where}: no such folder, and the hub did not give its config.json: {reason}"
        ) from None


def _config(root: Path, where: str) -> dict[str, Any]:
    return _read_config(root / "config.json", where)


def _read_config(path: Path, where: str) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"{where}: no config.json", "give a Hugging Face model folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UsageError(f"{where}: {path.name} is not JSON: {error}") from None
    if not isinstance(config, dict) or not config.get("model_type"):
        raise UsageError(f"{where}: {path.name} names no model_type")
    if config.get("auto_map"):
        raise UsageError(
            f"{where}: config.json asks to run code of its own (auto_map)",
            "toolchain runs no code from checkpoints; use a model that transformers knows",
        )
    return config


def _check_manifest(root: Path, where: str) -> None:
    if not (root / MANIFEST).is_file():
        return
    try:
        Artifact.open(root)
    except IntegrityError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from None


def _check_blob(path: Path, sha256: str, where: str) -> None:
    """Compare a file of the hub's cache with its digest: the cache names its blobs by it."""
    name = path.resolve().name
    if path.is_symlink() and _SHA256.match(name) and name != sha256:
        raise UsageError(
            f"{where}: {path.name} has sha256 {sha256[:12]}, the hub recorded {name[:12]}",
            "the file is damaged: remove it from the hub's cache and fetch it again",
        )


def _check_tokenizer(root: Path, where: str) -> None:
    if not any((root / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise UsageError(f"{where}: no tokenizer.json or vocab.txt", "add the model's tokenizer")
    path = root / "tokenizer.json"
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UsageError(
            f"{where}: tokenizer.json is not JSON: {error}", "fetch the folder again"
        ) from None
    if not isinstance(content, dict) or not content.get("model"):
        raise UsageError(f"{where}: tokenizer.json holds no model", "fetch the folder again")


def _check_finite(path: Path, header: Mapping[str, Stored], where: str) -> None:
    data = np.memmap(path, dtype=np.uint8, mode="r")
    for name, stored in header.items():
        if stored.dtype in _EXPONENT and stored.after > stored.first:
            words, exponent = _EXPONENT[stored.dtype]
            # A number whose exponent bits are all set is infinite or no number.
            read = data[stored.first : stored.after].view(words)
            exponents = read & np.array(exponent, dtype=words)
            if bool((exponents == exponent).any()):
                raise UsageError(
                    f"{where}: {name!r} in {path.name} holds values that are not finite",
                    "the file is damaged or the training diverged",
                )


def _check_tensors(
    family: Family, spec: ModelSpec, tensors: Mapping[str, tuple[int, ...]], where: str
) -> None:
    # A bare model is saved without the backbone's prefix.
    prefix = f"{family.backbone}."
    bare = not any(name.startswith(prefix) for name in tensors)
    for name, shape in _promised(family, spec).items():
        found = name.removeprefix(prefix) if bare else name
        if found not in tensors:
            raise UsageError(f"{where}: the weights lack {found!r}, which config.json promises")
        if tensors[found] != shape:
            raise UsageError(
                f"{where}: {found!r} has shape {list(tensors[found])}, "
                f"config.json says {list(shape)}"
            )


def _promised(family: Family, spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    q, k = spec.query_width, spec.key_width
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(1, spec.layers + 1):
        block = family.block_prefix(layer)
        if family.fused:
            shapes[f"{block}{family.query}.weight"] = (spec.width, q + 2 * k)
            continue
        # Thin blocks take queries and keys from their bottleneck, values from the whole width.
        read = q if spec.parts.bottleneck else spec.width
        for path, rows, columns in (
            (family.query, q, read),
            (family.key, k, read),
            (family.value, k, spec.width),
        ):
            shapes[f"{block}{path}.weight"] = (rows, columns)
    shapes[f"{family.backbone}.{family.tokens}.weight"] = (spec.vocab, spec.embedding_width)
    return shapes


def _notes(root: Path, family: Family) -> tuple[str, ...]:
    if family.pools == "first":
        return ()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            if json.loads((root / name).read_text(encoding="utf-8")).get("pad_token"):
                return ()
        except (OSError, ValueError, AttributeError):
            continue
    return ("the tokenizer has no padding token: its end-of-text token pads",)


def _licence(root: Path) -> str:
    card = root / "README.md"
    if card.is_file():
        match = re.search(
            r"^license:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace"), re.M
        )
        if match:
            return match[1]
    return ""
