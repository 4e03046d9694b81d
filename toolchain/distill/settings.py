"""A part from its name and settings, as recipes write them: every name and value checked."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from toolchain.errors import UsageError
from toolchain.registry import nearest

__all__ = ["build"]

T = TypeVar("T")


def build(cls: type[T], settings: Mapping[str, Any], *, what: str, where: str) -> T:
    """Return an instance of a frozen dataclass.

    `what` names the part in sentences ("method 'kd'"), `where` the place of its settings in the
    recipe. Raises UsageError for a setting it does not have, lacks, or that has a wrong value.
    """
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in settings:
        if key not in known:
            guess = nearest(key, known)
            offer = f"did you mean {guess!r}?" if guess else f"known: {', '.join(known) or 'none'}"
            raise UsageError(f"{what} has no option {key!r}", offer)
    values = {}
    for key, field in known.items():
        if key in settings:
            values[key] = _checked(settings[key], field.type, f"{where}.{key}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{what} needs the option {key!r}")
    return cls(**values)


def _checked(value: Any, annotation: Any, where: str) -> Any:
    try:
        checked = TypeAdapter(annotation).validate_python(_tuples(value), strict=True)
    except ValidationError as error:
        expected = _expected(annotation, error.errors()[0]["msg"])
        raise UsageError(f"{where}: expected {expected}, found {value!r}") from None
    if not _finite(checked):
        raise UsageError(f"{where}: expected a finite number, found {value!r}")
    return checked


def _finite(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _expected(annotation: object, message: str) -> str:
    if annotation in (int, float, str, bool):
        return getattr(annotation, "__name__", str(annotation))
    return message.removeprefix("Input should be ")
