"""Numbers that settings of objectives must be: refused with the sentence a user reads."""

import math

from toolchain.errors import UsageError

__all__ = ["require_fraction", "require_positive"]


def require_fraction(key: str, setting: str, value: float, *, one: bool = True) -> None:
    """Raise UsageError unless the value lies in [0, 1], or in [0, 1) without `one`."""
    if not 0 <= value <= 1 or (value == 1 and not one):
        limit = "to 1" if one else "to below 1"
        raise UsageError(f"{key}: {setting} is {value:g}, expected a number from 0 {limit}")


def require_positive(key: str, setting: str, value: float) -> None:
    """Raise UsageError unless the value is finite and above 0."""
    if not 0 < value < math.inf:
        raise UsageError(f"{key}: {setting} is {value:g}, expected a number above 0")
