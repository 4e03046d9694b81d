"""Things found by name: the module's name in a package is the name a user types.

Adding a method, an exporter or a renderer is adding a file. Third parties use the entry-point
group `toolchain.<kind>s`, whose value names a module. Listing reads docstrings from source, so it
imports nothing.
"""

import ast
import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, TypeVar

from toolchain.errors import UsageError

__all__ = ["Registry", "nearest", "unknown_name"]

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name a typist most likely meant, or None."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> UsageError:
    """Build the error for an unknown name, with its nearest neighbour and the whole list."""
    names = sorted(known)
    guess = nearest(name, names)
    at = f"{where}: " if where else ""
    meant = f"did you mean {guess!r}? " if guess else ""
    return UsageError(f"{at}unknown {kind} {name!r}", f"{meant}known: {', '.join(names)}")


@dataclass(frozen=True)
class Registry(Generic[T]):
    """The `kind`s that live as modules of `package`; each module exports one `attribute`."""

    kind: str
    package: str
    attribute: str
    _loaded: dict[str, T] = field(default_factory=dict, repr=False, compare=False)

    def modules(self) -> Mapping[str, str]:
        """Return every known name and the dotted module it is defined in."""
        spec = importlib.util.find_spec(self.package)
        locations = list(spec.submodule_search_locations or []) if spec else []
        found = {
            m.name: f"{self.package}.{m.name}"
            for m in pkgutil.iter_modules(locations)
            if not m.name.startswith("_")
        }
        for point in entry_points(group=f"toolchain.{self.kind}s"):
            if point.name in found and found[point.name] != point.value:
                raise UsageError(
                    f"{self.kind} {point.name!r} is defined twice: "
                    f"{found[point.name]} and {point.value}",
                    "uninstall one of the packages",
                )
            found[point.name] = point.value
        return dict(sorted(found.items()))

    def names(self) -> tuple[str, ...]:
        """Return every known name, sorted."""
        return tuple(self.modules())

    def summary(self, name: str) -> str:
        """Return the first line of the module's docstring, without importing the module."""
        spec = importlib.util.find_spec(self._module(name))
        if spec is None or spec.origin is None:
            return ""
        docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
        return (docstring or "").split("\n", 1)[0]

    def get(self, name: str) -> T:
        """Import the one module that defines `name` and return what it exports.

        Raises UsageError for an unknown name.
        """
        if name not in self._loaded:
            module = importlib.import_module(self._module(name))
            self._loaded[name] = getattr(module, self.attribute)
        return self._loaded[name]

    def _module(self, name: str) -> str:
        modules = self.modules()
        if name not in modules:
            raise unknown_name(self.kind, name, modules)
        return modules[name]
