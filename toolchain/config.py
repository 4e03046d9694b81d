"""YAML to frozen, checked data: the only configuration loader.

A wrong file is refused with its path, the dotted key, what was found and what was expected; an
unknown key names its nearest neighbour. `key=value` overrides are read as YAML scalars.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from toolchain.errors import UsageError
from toolchain.registry import nearest

__all__ = ["Config", "apply_overrides", "dump_yaml", "parse", "read_yaml"]


class Config(BaseModel):
    """Base of every configuration type: frozen, strict about keys, types and finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


C = TypeVar("C", bound=Config)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as text; everyone who writes a learning rate means a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _load(text: str) -> Any:
    # A subclass of SafeLoader: no tag can name a Python object.
    return yaml.load(text, Loader=_Loader)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one mapping from a YAML file. Raises UsageError that names file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    try:
        loaded = _load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise UsageError(f"{path}{line}: {problem}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise UsageError(f"{path}: expected a mapping of keys, found {type(loaded).__name__}")
    return loaded


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `values` with each `dotted.key=value` set. Raises UsageError on a malformed one."""
    result = {key: value for key, value in values.items()}
    for override in overrides:
        key, separator, raw = override.partition("=")
        if not separator or not key:
            raise UsageError(f"override {override!r} is not of the form key=value")
        try:
            value = _load(raw)
        except yaml.YAMLError:
            raise UsageError(f"override {override!r}: the value is not valid YAML") from None
        _assign(result, key.split("."), value, override)
    return result


def _assign(tree: dict[str, Any], path: list[str], value: object, override: str) -> None:
    for key in path[:-1]:
        child = tree.get(key)
        if child is None:
            child = {}
        if not isinstance(child, Mapping):
            raise UsageError(f"override {override!r}: {key!r} holds a value, not a section")
        tree[key] = dict(child)
        tree = tree[key]
    tree[path[-1]] = value


def parse(model: type[C], values: Mapping[str, Any], *, where: str) -> C:
    """Check `values` against `model`. Raises UsageError that lists every problem in one line."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_problem(model, dict(item)) for item in error.errors()]
        raise UsageError(f"{where}: {'; '.join(dict.fromkeys(problems))}") from None


def _problem(model: type[BaseModel], item: Mapping[str, Any]) -> str:
    location = [str(part) for part in item["loc"]]
    dotted = ".".join(location)
    if item["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        guess = nearest(location[-1], known)
        offer = f"did you mean {guess!r}?" if guess else f"known keys: {', '.join(sorted(known))}"
        return f"unknown key {dotted!r}, {offer}"
    if item["type"] == "missing":
        return f"key {dotted!r} is missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{dotted}: {message}" if dotted else message
    expected = message.replace("Input should be", "should be")
    problem = f"{dotted}: {expected}, found {item['input']!r}"
    if item["type"] == "literal_error":
        # The names stand quoted in the message.
        guess = nearest(str(item["input"]), re.findall(r"'([^']*)'", expected))
        problem += f", did you mean {guess!r}?" if guess else ""
    return problem


def _keys_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    current: type[BaseModel] | None = model
    for key in path:
        if current is None or key not in current.model_fields:
            # A mapping with free keys (such as `stages`): its values share one model.
            continue
        current = _model_in(current.model_fields[key].annotation)
    return list(current.model_fields) if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def dump_yaml(config: Config, *, defaults: bool = True) -> str:
    """Return the whole configuration as YAML, keys in declared order, with or without defaults."""
    values = config.model_dump(mode="json", exclude_defaults=not defaults)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
