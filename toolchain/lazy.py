"""Heavy modules imported on first use, so that declarations can be read without them.

A method, its terms and their objectives are listed by `toolchain methods` in a fraction of a
second; importing torch alone takes several. A file whose functions need torch, but whose
declarations do not, writes

    if TYPE_CHECKING:
        import torch
    else:
        torch = lazy("torch")
"""

import importlib
from typing import Any

__all__ = ["lazy"]


class _Lazy:
    """Stands for a module; every attribute is looked up in the real one."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


def lazy(name: str) -> Any:
    """Return a stand-in for module `name` that imports it on the first attribute access."""
    return _Lazy(name)
