"""`toolchain doctor`: is this machine and installation fit for work?"""

import json

from toolchain.cli import options as o
from toolchain.cli.console import out

__all__ = ["run"]


def run(json_: o.Json = False, debug: o.Debug = False) -> None:  # noqa: ARG001 - debug: see main
    """Say what this machine has and what is missing for a run."""
    from importlib.metadata import PackageNotFoundError, version

    from toolchain import hardware
    from toolchain.bench.environment import environment
    from toolchain.export.exporter import exporters
    from toolchain.models.family import families

    found = environment()
    extras = {
        "datasets": "hub",
        "deepspeed": "deepspeed",
        "onnxruntime-extensions": "extensions",
        "tensorboard": "tensorboard",
    }
    formats = {name: exporters.get(name) for name in exporters.names()}
    missing = {f"format {name}": e.install for name, e in formats.items() if e.missing()}
    for package, extra in extras.items():
        try:
            version(package)
        except PackageNotFoundError:
            missing[package] = f"pip install 'toolchain[{extra}]'"
    facts = {
        **found,
        "bf16": hardware.bf16_reason() or "no: training runs in fp32",
        "cuda": hardware.has_cuda(),
        "families": list(families.names()),
        "not_installed": missing,
    }
    out(json.dumps(facts, indent=2) if json_ else _text(facts))


def _text(facts: dict[str, object]) -> str:
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items()) or "nothing"
        elif isinstance(value, list):
            value = " ".join(map(str, value))
        lines.append(f"{name.replace('_', ' '):14}{value}")
    return "\n".join(lines)
