"""report.json: everything, raw samples included, for other programs."""

import json
import re

from toolchain.report.report import Report

__all__ = ["render"]

# JSON text holds a raw line break only between tokens, so this never reaches into a string.
_NUMBERS = re.compile(r"\[\n\s+((?:-?[\d.eE+-]+|null)(?:,\n\s+(?:-?[\d.eE+-]+|null))*)\n\s+\]")


def render(report: Report) -> bytes:
    """Return indented JSON with each list of numbers on one line."""
    report.validate()
    text = json.dumps(report.as_json(), indent=2, ensure_ascii=True, allow_nan=False)
    return (_NUMBERS.sub(_on_one_line, text) + "\n").encode()


def _on_one_line(match: re.Match[str]) -> str:
    return "[" + " ".join(match.group(1).split()) + "]"
