"""Target: a device as one YAML file of facts; the folder it lies in is its kind."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from toolchain import resources
from toolchain.config import Config, parse, read_yaml
from toolchain.errors import UsageError
from toolchain.registry import unknown_name

__all__ = ["Accepts", "Budget", "RuntimeSpec", "Target", "load_target", "target_names"]


class RuntimeSpec(Config):
    """What runs the model there."""

    name: Literal["onnxruntime"]
    """What runs ONNX files; another format's files are run by that format's own runtime."""
    provider: str = "CPUExecutionProvider"
    threads: int = Field(1, ge=1)


class Accepts(Config):
    """What can be loaded there, best precision and best format first."""

    formats: list[str]
    precisions: list[str]
    max_opset: int = 20


class Budget(Config):
    """What the device has; sizes in bytes, None where the run itself finds out."""

    memory_bytes: int | None = Field(None, gt=0)
    file_bytes: int | None = Field(None, gt=0)


class Target(Config):
    """A named device.

    `fidelity` says what a latency figure taken by this run is worth: "measured" only where the
    run itself executes on the device.
    """

    name: str
    summary: str
    fidelity: Literal["measured", "none"]
    runtime: RuntimeSpec
    accepts: Accepts
    budget: Budget = Budget()
    notes: list[str] = []
    kind: str = ""

    @model_validator(mode="after")
    def _accepts_something(self) -> "Target":
        if not self.accepts.formats or not self.accepts.precisions:
            raise ValueError("accepts must name at least one format and one precision")
        return self

    def why_not(self, *, format: str, precision: str, opset: int, file_bytes: int) -> list[str]:
        """Return every reason why the target cannot take such a model; empty when it can."""
        reasons = []
        if format not in self.accepts.formats:
            reasons.append(f"{self.name} takes {', '.join(self.accepts.formats)}, not {format}")
        if precision not in self.accepts.precisions:
            reasons.append(
                f"{self.name} takes {', '.join(self.accepts.precisions)}, not {precision}"
            )
        if opset > self.accepts.max_opset:
            reasons.append(f"{self.name} takes opset {self.accepts.max_opset}, not {opset}")
        limit = self.budget.file_bytes
        if limit is not None and file_bytes > limit:
            reasons.append(f"the file has {file_bytes} bytes, {self.name} takes {limit}")
        memory = self.budget.memory_bytes
        if memory is not None and file_bytes > memory:
            reasons.append(f"the file alone is larger than the memory of {self.name}")
        return reasons


def _profiles() -> dict[str, Path]:
    return {path.stem: path for path in sorted(resources.folder("targets").glob("*/*.yaml"))}


def target_names() -> tuple[str, ...]:
    """Return the names of the shipped targets."""
    return tuple(_profiles())


def load_target(name: str) -> Target:
    """Load a shipped target by name, or a profile of one's own by its path.

    Raises UsageError for an unknown name or a malformed profile.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    else:
        profiles = _profiles()
        if name not in profiles:
            raise unknown_name("target", name, profiles)
        path = profiles[name]
    values = read_yaml(path)
    values.setdefault("kind", path.resolve().parent.name)
    target = parse(Target, values, where=str(path))
    if target.name != path.stem:
        raise UsageError(f"{path}: name is {target.name!r}, the file says {path.stem!r}")
    return target
