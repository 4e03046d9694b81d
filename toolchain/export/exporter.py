"""What an export format must offer, and where formats are found by name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from toolchain.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

__all__ = ["Exporter", "Signature", "exporters"]


@dataclass(frozen=True, kw_only=True)
class Signature:
    """How an exported file is called.

    `dynamic_axes` holds, for every input and output, the name of each axis whose size is free and
    "" for each axis of fixed size.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    dynamic_axes: Mapping[str, tuple[str, ...]]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON, for an artifact's facts."""
        entry = asdict(self)
        entry["inputs"], entry["outputs"] = list(self.inputs), list(self.outputs)
        entry["dynamic_axes"] = {name: list(axes) for name, axes in self.dynamic_axes.items()}
        return entry


class Exporter(Protocol):
    """Writes a trained model as one file that a runtime loads."""

    def __call__(
        self,
        model: "PreTrainedModel",
        out: Path,
        *,
        opset: int = 20,
        sample: "Mapping[str, Tensor] | None" = None,
    ) -> Signature:
        """Write `model` to the file `out`. Raises UsageError for a model it cannot express."""


exporters: Registry[Exporter] = Registry("exporter", "toolchain.export.formats", "export")
