"""What an export format must offer, and where formats are found by name.

A format is a module of `toolchain.export.formats` (or of the entry-point group
`toolchain.exporters`); its name is what recipes and targets call it. ONNX always is there: every
other file is proved against the student it was made from, and timed beside its ONNX file.

Shape letters: N tokens.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import UsageError
from toolchain.registry import Registry
from toolchain.spec import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ONNX", "Exporter", "Signature", "Source", "Texts", "Write", "exporters"]

ONNX = "onnx"

Texts = Sequence[Mapping[str, NDArray[np.int64]]]
"""Real texts as the model reads them: inputs by name, each (1, N), one text after another."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """How an exported file is called.

    `dynamic_axes` holds, for every input and output, the name of each axis whose size is free and
    "" for each axis of fixed size; `opset` is 0 where the format has none. `buckets` are the
    lengths that a file of fixed shapes can take, rows being padded to the next one.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    dynamic_axes: Mapping[str, tuple[str, ...]]
    buckets: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON, for an artifact's facts."""
        entry = asdict(self)
        entry["inputs"], entry["outputs"] = list(self.inputs), list(self.outputs)
        entry["dynamic_axes"] = {name: list(axes) for name, axes in self.dynamic_axes.items()}
        entry["buckets"] = list(self.buckets)
        return entry


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a format starts from: the trained model, and the ONNX file that was made of it.

    That is the fp32 one, or for a format that `converts` the one of the precision asked for.
    `model` loads it when asked, `texts` are rows of training data for precisions that look at
    some, `max_tokens` is the longest row that will be read.
    """

    model: "Callable[[], PreTrainedModel]"
    onnx: Path | None = None
    texts: Texts = ()
    max_tokens: int = 0


class Write(Protocol):
    """Writes one model in one precision to a file, with what belongs to it beside it."""

    def __call__(self, source: Source, out: Path, precision: str) -> Signature:
        """Write the file `out`. Raises UsageError for a model it cannot express."""


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """One format: who runs it, what it takes to write it, and where its files lie.

    `files` holds for each precision the file in the folder of a model that a runtime opens; one of
    the same stem with a suffix in `beside` belongs to each. `packages` must be importable, `extra`
    brings them in the versions of `constraints`. `calibrated` precisions look at texts first.
    `tasks` left out are not expressible. One that `converts` makes each precision from the ONNX
    file in the same one. `engine` is the format whose files these are to a bundle, where that is
    another.
    """

    runtime: str
    write: Write
    files: Mapping[str, str]
    beside: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    extra: str = ""
    calibrated: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()
    converts: bool = False
    engine: str = ""
    constraints: str = "constraints.txt"

    def missing(self) -> tuple[str, ...]:
        """Return the packages that are not installed here; imports none of them."""
        return tuple(name for name in self.packages if not _is_there(name))

    def check_installed(self, name: str) -> None:
        """Raise UsageError, naming the extra, where a package of the format `name` is missing."""
        missing = self.missing()
        if missing:
            raise UsageError(
                f"format {name} needs {', '.join(missing)}, not installed here", self.install
            )

    @property
    def install(self) -> str:
        """How its packages are brought here."""
        if not self.extra:
            return "install what its package asks for"
        return f"pip install -c {self.constraints} 'toolchain[{self.extra}]'"


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        # What it would lie in is missing, too.
        return False


exporters: Registry[Exporter] = Registry("exporter", "toolchain.export.formats", "exporter")
