"""Where the shipped facts lie: in the wheel under `_data/`, in a checkout at its root."""

from pathlib import Path

from toolchain.errors import StepError

__all__ = ["folder"]


def folder(name: str) -> Path:
    """Return the folder of shipped facts called `name` (such as "targets")."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "_data" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise StepError(f"the installation lacks its {name!r} folder", "reinstall toolchain")
