"""The models of a run side by side: what is verified, timed and reported under which name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolchain.measurement import Role

__all__ = ["FP32_FILE", "TEACHER", "Variant", "onnx_file", "onnx_files"]

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


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One model in one format and precision.

    `path` is a Hugging Face folder (torch) or an .onnx file; `parent` the variant it must equal;
    `digest` the sha256 of the file that holds its weights, `published` its place in the output.
    `max_tokens` is the most it reads of a row where that is not what the others read. `beside` is
    the variant its metric may not fall behind and `like` the one it must answer like, where those
    are not its parent. One that is no `candidate` is there to be compared with and never ships. A
    torch model that is `rounded` computes with the rounding that this fp32 file gets in int8.
    """

    name: str
    role: Role
    format: Literal["torch", "onnx"]
    precision: str
    path: Path
    digest: str
    parameters: int
    parent: str = ""
    opset: int = 0
    published: str = ""
    max_tokens: int | None = None
    beside: str = ""
    like: str = ""
    rounded: Path | None = None
    candidate: bool = True

    @property
    def runtime(self) -> str:
        """The runtime adapter that opens it."""
        return "pytorch" if self.format == "torch" else "onnxruntime"

    @property
    def folder(self) -> Path:
        """The folder with its configuration and tokenizer; an ONNX file lies in its onnx/."""
        return self.path if self.format == "torch" else self.path.parent.parent

    @property
    def file(self) -> Path:
        """The file that holds its weights."""
        return self.path / "model.safetensors" if self.format == "torch" else self.path

    @property
    def bytes(self) -> int:
        """Bytes of that file."""
        return self.file.stat().st_size
