"""Distil, export, quantise, verify, measure and bundle a transformer in one command.

Public names are imported on first use, so that `import toolchain` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.distill.term import Term, method
    from toolchain.errors import ToolchainError
    from toolchain.layermap import LayerMap
    from toolchain.measurement import Load, Measurement, Verdict
    from toolchain.pipeline import compress
    from toolchain.plan import Plan, make_plan
    from toolchain.recipe import Recipe, load_recipe
    from toolchain.spec import ModelSpec
    from toolchain.target import Target, load_target

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "LayerMap",
    "Load",
    "Measurement",
    "ModelSpec",
    "Plan",
    "Recipe",
    "Target",
    "Term",
    "ToolchainError",
    "Verdict",
    "__version__",
    "compress",
    "load_recipe",
    "load_target",
    "make_plan",
    "method",
]

_HOME = {
    "Artifact": "artifact",
    "LayerMap": "layermap",
    "Load": "measurement",
    "Measurement": "measurement",
    "ModelSpec": "spec",
    "Plan": "plan",
    "Recipe": "recipe",
    "Target": "target",
    "Term": "distill.term",
    "ToolchainError": "errors",
    "Verdict": "measurement",
    "compress": "pipeline",
    "load_recipe": "recipe",
    "load_target": "target",
    "make_plan": "plan",
    "method": "distill.term",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"toolchain.{_HOME[name]}"), name)
    raise AttributeError(f"module 'toolchain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
