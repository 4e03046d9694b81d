"""In which files the student is written: ONNX, and others asked for or that the targets take."""

from collections.abc import Sequence

from toolchain.errors import UsageError
from toolchain.export.exporter import ONNX, exporters
from toolchain.recipe import DataTask, Recipe
from toolchain.registry import unknown_name
from toolchain.target import Target

__all__ = ["check_expressible", "with_formats"]

AUTO = "auto"


def with_formats(recipe: Recipe, targets: Sequence[Target]) -> Recipe:
    """Return the recipe with its formats by name, ONNX first.

    Raises UsageError for a name that is no format, and for one asked for by name whose packages
    are not installed.
    """
    known = exporters.names()
    _check_known(recipe.formats, (*known, AUTO), "formats")
    for target in targets:
        _check_known(target.accepts.formats, known, f"target {target.name}: accepts.formats")
    asked = [name for name in recipe.formats if name not in (AUTO, ONNX)]
    for name in asked:
        exporters.get(name).check_installed(name)
    if AUTO in recipe.formats:
        taken = (name for target in targets for name in target.accepts.formats if name != ONNX)
        asked += [name for name in taken if not exporters.get(name).missing()]
    return recipe.model_copy(update={"formats": list(dict.fromkeys([ONNX, *asked]))})


def check_expressible(recipe: Recipe, resolved: Recipe, task: DataTask) -> Recipe:
    """Return `resolved` without formats that cannot hold a model for the task.

    Raises UsageError for one that `recipe` asked for by name.
    """
    fit = [n for n in resolved.formats if n == ONNX or task in exporters.get(n).tasks]
    for name in resolved.formats:
        if name not in fit and name in recipe.formats:
            raise UsageError(
                f"formats: {name} holds models for {', '.join(exporters.get(name).tasks)}, "
                f"the data are for {task}",
                f"leave {name} out",
            )
    return resolved.model_copy(update={"formats": fit})


def _check_known(names: Sequence[str], known: Sequence[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise unknown_name("format", name, known, where)
