"""What runs a bundle's model: its package, its file names, and the part of the scripts it changes.

Scripts are written for ONNX Runtime and stand alone. For another engine the one function that opens
the model is exchanged for that of an asset, and the names of package and file with it, so that no
bundle asks for a runtime it does not need.
"""

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolchain.errors import UsageError
from toolchain.export.exporter import exporters
from toolchain.export.quiet import mute
from toolchain.onnx_pair import data_of

__all__ = ["ENGINES", "Engine", "engine_of"]

_ASSETS = Path(__file__).resolve().parent / "assets"
_PACKAGE, _MODEL, _OPENER = "onnxruntime", "model.onnx", "_open_model"


def _openvino_names(path: Path) -> tuple[list[str], list[str]]:
    import openvino

    model = openvino.Core().read_model(path)
    return [port.any_name for port in model.inputs], [port.any_name for port in model.outputs]


def _ort_names(path: Path) -> tuple[list[str], list[str]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [v.name for v in session.get_inputs()], [v.name for v in session.get_outputs()]


def _executorch_program(path: Path) -> Any:
    # First: the bindings are linked against its libraries.
    import torch  # noqa: F401
    from executorch.extension.pybindings import _C

    with mute():
        return _C._load_program(str(path))


def _executorch_names(path: Path) -> tuple[list[str], list[str]]:
    program = _executorch_program(path)
    given, found = (program.load_method(f"get_{kind}")([])[0] for kind in ("inputs", "outputs"))
    return given.split(","), found.split(",")


def _executorch_width(path: Path) -> int:
    program = _executorch_program(path)
    return int(program.method_meta("forward").output_tensor_meta(0).sizes()[-1])


def _litert_names(path: Path) -> tuple[list[str], list[str]]:
    from ai_edge_litert.interpreter import Interpreter

    first = next(iter(Interpreter(model_path=str(path)).get_signature_list().values()))
    return list(first["inputs"]), list(first["outputs"])


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One runtime as a bundle uses it.

    `package` is imported, `requirement` installed, at least as of `minimum`; `model` is the file
    it opens, files of the same stem with the suffixes `beside` belong to it. `opener` is the asset
    whose functions open it; `names` reads a file's inputs and outputs, `width` the last axis of the
    first output. `imports` is what imports it, where that is not just its name; `needs` is what
    must be installed beside it, with the least version. `takes` says how its inputs are given, up
    to the padding.
    """

    package: str
    requirement: str
    minimum: str
    model: str
    beside: tuple[str, ...] = ()
    opener: str = ""
    names: Callable[[Path], tuple[list[str], list[str]]] | None = None
    width: Callable[[Path], int] | None = None
    imports: str = ""
    needs: Mapping[str, str] = field(default_factory=dict)
    takes: str = "int64, shape (rows, tokens). A batch is padded"

    @property
    def adapts(self) -> bool:
        """Return whether scripts are other than they are written."""
        return self.model != _MODEL

    def files(self, model: Path) -> dict[Path, str]:
        """Return the files of a model by where they lie, with their names in a bundle."""
        ours = Path(self.model)
        # A graph calls its weights by name, so they keep theirs.
        weights = (path for path in (data_of(model),) if path.is_file())
        return {
            model: self.model,
            **{model.with_suffix(s): ours.with_suffix(s).name for s in self.beside},
            **{path: path.name for path in weights},
        }

    def adapted(self, text: str) -> str:
        """Return a script, or a text about it, as it is for this engine."""
        if self.opener and f"def {_OPENER}(" in text:
            old = next(_definitions(text, (_OPENER,)))
            text = text.replace(old, "\n\n\n".join(_definitions(_source(self.opener))))
        if self.imports:
            text = text.replace(f"import {_PACKAGE}\n", f"{self.imports}\n")
        return text.replace(_PACKAGE, self.package).replace(_MODEL, self.model)


def _source(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _definitions(source: str, names: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the text of classes and functions, of all or of those named."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and (not names or node.name in names):
            yield ast.get_source_segment(source, node) or ""


# Lower bounds with aarch64 wheels for Python 3.10 and newer. onnxruntime 1.21 dies with an illegal
# instruction on Cortex-A53 and A72.
ENGINES: Mapping[str, Engine] = {
    "onnx": Engine(package=_PACKAGE, requirement=_PACKAGE, minimum="1.22.1", model=_MODEL),
    # The same runtime; a file with this suffix is known by it.
    "ort": Engine(
        package=_PACKAGE,
        requirement=_PACKAGE,
        minimum="1.22.1",
        model="model.ort",
        beside=(".required_operators.config", ".required_operators_and_types.config"),
        names=_ort_names,
    ),
    "openvino": Engine(
        package="openvino",
        requirement="openvino",
        minimum="2025.0",
        model="model.xml",
        beside=(".bin",),
        opener="open_openvino.py",
        names=_openvino_names,
    ),
    "litert": Engine(
        package="ai_edge_litert",
        requirement="ai-edge-litert",
        minimum="2.1",
        model="model.tflite",
        opener="open_litert.py",
        names=_litert_names,
        imports="import ai_edge_litert.interpreter",
        takes="int32, shape (1, N), row by row, with the signature `tokens_N` of the least N that "
        "holds the row. It is padded",
    ),
    "executorch": Engine(
        package="executorch",
        requirement="executorch",
        minimum="1.5",
        # Its wheel is linked against torch, and does not ask for it.
        needs={"torch": "2.13"},
        model="model.pte",
        opener="open_executorch.py",
        names=_executorch_names,
        width=_executorch_width,
        imports="import executorch.version as executorch\n"
        "import torch\nfrom executorch.extension.pybindings import _C",
        takes="int64, shape (1, tokens), row by row. A row may be padded",
    ),
}


def engine_of(format: str) -> Engine:
    """Return what runs a format in bundles. Raises UsageError where none can be made."""
    known = format not in ENGINES and format in exporters.names()
    name = exporters.get(format).engine if known else format
    if name not in ENGINES:
        raise UsageError(f"no bundle can be made of {format}, only of {', '.join(ENGINES)}")
    return ENGINES[name]
