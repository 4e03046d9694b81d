"""Options that several commands share, spelled once, and how they become a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from toolchain import __version__
from toolchain.errors import UsageError
from toolchain.recipe import Recipe, load_recipe

__all__ = [
    "Baseline",
    "DataOption",
    "Debug",
    "Json",
    "Method",
    "Output",
    "Teacher",
    "build_recipe",
    "has_recipe",
    "version",
]

Teacher = Annotated[
    str | None, typer.Option("--teacher", help="Model folder or hub id.", metavar="DIR|HUB_ID")
]
Student = Annotated[
    str | None, typer.Option("--student", help="Folder of a student to start from.", metavar="DIR")
]
DataOption = Annotated[
    str | None, typer.Option("--data", help="Task data.", metavar="DIR|FILE|HUB_ID")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder to write.", metavar="DIR")]
Config = Annotated[Path | None, typer.Option("-c", "--config", help="Recipe file.", metavar="FILE")]
Target = Annotated[
    list[str] | None, typer.Option("--target", help="Device; may be repeated.", metavar="NAME")
]
Layers = Annotated[int | None, typer.Option("--layers", help="Student layers.", min=1)]
Hidden = Annotated[int | None, typer.Option("--hidden", help="Student width.", min=1)]
Heads = Annotated[int | None, typer.Option("--heads", help="Student attention heads.", min=1)]
Ffn = Annotated[int | None, typer.Option("--ffn", help="Student feed-forward width.", min=1)]
Method = Annotated[
    str | None, typer.Option("--method", help="Method, as kd or kd+tinybert@0.5.", metavar="NAME")
]
Precision = Annotated[
    list[str] | None,
    typer.Option(
        "--precision", help="In which the student is written; may be repeated.", metavar="NAME"
    ),
]
Baseline = Annotated[
    bool | None, typer.Option("--baseline/--no-baseline", help="Train the fair baseline too.")
]
Latency = Annotated[
    str | None,
    typer.Option("--latency", help="Limit on p50 on this machine, as 15ms.", metavar="TIME"),
]
MaxSteps = Annotated[
    int | None, typer.Option("--max-steps", help="Cap on every training stage.", min=1)
]
Seed = Annotated[int | None, typer.Option("--seed", help="Random seed.", min=0)]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say more on stderr.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value overrides.", metavar="[KEY=VALUE]...")
]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"toolchain {__version__}")
        raise typer.Exit


def version(
    show: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Distil, export, quantise, verify, measure and bundle a transformer in one command."""


def build_recipe(
    config: Path | None, overrides: list[str] | None, options: Mapping[str, Any]
) -> Recipe:
    """Return the recipe of a command line; options that were not given change nothing.

    Dotted keys of `options` name sections. Raises UsageError, naming the option that is missing.
    """
    words = list(overrides or [])
    if has_recipe(None, words):
        if config is not None:
            raise UsageError(f"two recipes: {config} and {words[0]}")
        config = Path(words.pop(0))
    values: dict[str, Any] = {}
    for key, value in options.items():
        if value is None or value == []:
            continue
        section = values
        *parents, last = key.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    if config is None and not words:
        for name, found in (
            ("--teacher", bool(values.get("teacher"))),
            ("--data", "data" in values),
        ):
            if not found:
                raise UsageError(f"{name} is missing", "name it, or give a recipe file")
    return load_recipe(config, values, words)


def has_recipe(config: Path | None, overrides: list[str] | None) -> bool:
    """Return whether a command line names a recipe file, as an option or as its first word."""
    first = overrides[0] if overrides else ""
    return config is not None or (first.endswith((".yaml", ".yml")) and "=" not in first)


def milliseconds(text: str | None) -> float | None:
    """Read a duration such as 15ms, 0.5s or 15 (milliseconds). Raises UsageError."""
    if text is None:
        return None
    return _duration(text, {"ms": 1.0, "s": 1000.0, "": 1.0}, "--latency", "15ms")


def budget_seconds(text: str) -> float:
    """Read a duration such as 90s, 20m or 1h. Raises UsageError."""
    return _duration(text, {"s": 1.0, "m": 60.0, "h": 3600.0}, "--budget", "90s, 20m or 1h")


def _duration(text: str, units: Mapping[str, float], option: str, example: str) -> float:
    """Return a positive number of the first unit that `text` ends with, times its factor."""
    for unit, factor in units.items():
        if text.endswith(unit):
            number = text.removesuffix(unit).strip()
            try:
                value = float(number) * factor
            except ValueError:
                break
            if value > 0:
                return value
            break
    raise UsageError(f"{option} {text!r} is not a duration", f"write it as {example}")


def after_show(command: str, word: str, name: str | None) -> str:
    """Return the name in `COMMAND show NAME`. Raises UsageError for anything else."""
    if word != "show" or name is None:
        raise UsageError(
            f"cannot read {command} {word}", f"write {command}, or {command} show NAME"
        )
    return name
