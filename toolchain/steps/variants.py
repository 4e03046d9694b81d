"""The models of a run side by side: what is verified, timed and reported under which name."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toolchain.export.exporter import ONNX, exporters
from toolchain.measurement import Role
from toolchain.models.shards import weight_files
from toolchain.onnx_pair import data_of

__all__ = ["FP32_FILE", "TEACHER", "Variant", "onnx_file", "onnx_files", "other_files"]

TEACHER = "teacher"

# Where the files of exported and quantised folders lie in them: the names that transformers.js,
# optimum and sentence-transformers look for, where they have one.
FP32_FILE = "onnx/model.onnx"
_NAMES = {"fp32": "model", "int8": "model_quantized", "int4_weights": "model_q4"}


def onnx_file(precision: str) -> str:
    """Return where the file of a precision lies in its folder."""
    return f"onnx/{_NAMES.get(precision, f'model_{precision}')}.onnx"


def onnx_files(folder: Path) -> dict[str, Path]:
    """Return the .onnx files of a folder by their precision, the fp32 one last."""
    known = {onnx_file(name): name for name in _NAMES}
    found = {}
    for path in sorted(folder.glob("onnx/model*.onnx"), reverse=True):
        name = path.relative_to(folder).as_posix()
        found[known.get(name, path.stem.removeprefix("model_"))] = path
    return found


def other_files(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield format, precision and path of every file of a folder that is not ONNX, fp32 last."""
    for name in exporters.names():
        if name != ONNX:
            for precision, file in reversed(list(exporters.get(name).files.items())):
                if (folder / file).is_file():
                    yield name, precision, folder / file


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One model in one format and precision.

    `path` is a Hugging Face folder (torch) or the file a runtime opens; `parent` the variant it
    must equal; `digest` the sha256 of the file that holds its weights or names their digest
    (of shards: of all their digests); `published` its place in the output.
    `max_tokens` is the most it reads of a row where that is not what the others read. `held_to` is
    the variant its metric may not fall behind and `like` the one it must answer like, where those
    are not its parent. One that is no `candidate` is there to be compared with and never ships. A
    torch model that is `rounded` computes with the rounding that this fp32 file gets in int8.
    """

    name: str
    role: Role
    format: str
    precision: str
    path: Path
    digest: str
    parameters: int
    parent: str = ""
    opset: int = 0
    published: str = ""
    max_tokens: int | None = None
    held_to: str = ""
    like: str = ""
    rounded: Path | None = None
    candidate: bool = True

    @property
    def runtime(self) -> str:
        """The runtime adapter that opens it."""
        if self.format == "torch":
            return "pytorch"
        return "onnxruntime" if self.format == ONNX else exporters.get(self.format).runtime

    @property
    def folder(self) -> Path:
        """The folder with its configuration and tokenizer; a file lies in onnx/ or the like."""
        return self.path if self.format == "torch" else self.path.parent.parent

    @property
    def file(self) -> Path:
        """The file that holds its weights, the first one where there are several."""
        return self._shards[0] if self.format == "torch" else self.path

    @property
    def beside(self) -> tuple[Path, ...]:
        """The files that belong to it, beside the one a runtime opens."""
        if self.format == ONNX:
            return tuple(path for path in (data_of(self.path),) if path.is_file())
        if self.format == "torch":
            return tuple(self._shards[1:])
        suffixes = exporters.get(self.format).beside
        return tuple(self.path.with_suffix(suffix) for suffix in suffixes)

    @property
    def _shards(self) -> list[Path]:
        return weight_files(self.path, str(self.path))

    @property
    def bytes(self) -> int:
        """Bytes of that file and of those that belong to it."""
        return sum(path.stat().st_size for path in (self.file, *self.beside))
