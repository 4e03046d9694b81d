"""In which precisions the student is written: those asked for, or all that the targets take."""

from collections.abc import Sequence

from toolchain.export.exporter import exporters
from toolchain.optimize.precision import FP32, precisions
from toolchain.recipe import Recipe
from toolchain.registry import unknown_name
from toolchain.target import Target

__all__ = ["AUTO", "with_precisions"]

AUTO = "auto"
_INT8, _REDUCED = "int8", "int8_reduced"


def with_precisions(recipe: Recipe, targets: Sequence[Target]) -> Recipe:
    """Return the recipe with its precisions by name, fp32 last; auto is what the targets take.

    Formats other than ONNX have their own. A target on which int8 overflows, as it says by taking
    int8_reduced alone, gets that where int8 is asked for. Raises UsageError for a name that is no
    precision.
    """
    others = (own for name in recipe.formats[1:] for own in exporters.get(name).files)
    known = tuple(dict.fromkeys((*precisions.names(), *others, FP32)))
    for name in (n for n in recipe.precisions if n not in (*known, AUTO)):
        raise unknown_name("precision", name, (*known, AUTO), "precisions")
    asked = list(dict.fromkeys(n for n in recipe.precisions if n != AUTO))
    if AUTO in recipe.precisions:
        taken = [name for target in targets for name in target.accepts.precisions]
        asked = list(dict.fromkeys([*asked, *(n for n in taken if n in known)]))
    if _INT8 in asked:
        asked += [_REDUCED] if any(_overflows(target) for target in targets) else []
        if targets and all(_overflows(target) for target in targets):
            asked.remove(_INT8)
    asked = list(dict.fromkeys(asked))
    return recipe.model_copy(update={"precisions": [*(n for n in asked if n != FP32), FP32]})


def _overflows(target: Target) -> bool:
    taken = target.accepts.precisions
    return _REDUCED in taken and _INT8 not in taken
