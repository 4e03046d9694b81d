"""report.html: one self-contained page: no network, no script, drawings inline."""

import json
from collections.abc import Callable, Mapping
from importlib import resources
from itertools import groupby

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from toolchain.report import figures
from toolchain.report.page import page
from toolchain.report.page_models import Head
from toolchain.report.report import Report

__all__ = ["page_environment", "render", "style"]

# The embedded copy keeps the page light to forward; report.json beside it has everything.
_EMBEDDED_POINTS = 200
_EMBEDDED_BYTES = 900_000


def render(report: Report) -> bytes:
    """Return the page in UTF-8."""
    report.validate()
    environment = page_environment(_part)
    environment.filters["digest"] = figures.short_digest
    environment.filters["relation"] = _relation
    content = page(report)
    text = environment.get_template("_page.html.j2").render(
        page=content,
        groups=_groups(content.heads),
        style=style(),
        svg=Markup,
        embedded=Markup(_embedded(report)),
    )
    return text.encode()


def page_environment(part: Callable[[str], str]) -> Environment:
    """Return what fills a page's template, found by `part`: everything shown is escaped."""
    return Environment(
        loader=FunctionLoader(part),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_cleaned,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style() -> Markup:
    """Return the style sheet of all pages."""
    return Markup(_part("_page.css"))


def _cleaned(value: object) -> object:
    """Take control characters out of every value shown; markup of our own passes."""
    return value if isinstance(value, Markup) else figures.printable(str(value))


def _relation(words: str) -> str:
    return words.replace("<=", "\u2264").replace(">=", "\u2265")


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _groups(heads: tuple[Head, ...]) -> list[tuple[str, int]]:
    """Return the heads above the heads, and how many columns each spans."""
    return [(name, len(list(run))) for name, run in groupby(heads, key=lambda head: head.group)]


def _embedded(report: Report) -> str:
    """Return report.json without raw samples, such that no HTML parser sees a tag in it."""
    content = report.as_json()
    text = json.dumps(_slim(content), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    if len(text) > _EMBEDDED_BYTES:
        text = json.dumps(_slim({**content, "curves": []}), ensure_ascii=True, allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _slim(value: object) -> object:
    """Drop raw samples and thin long curves, evenly and with their last point."""
    if isinstance(value, Mapping):
        return {key: _slim(item) for key, item in value.items() if key != "samples"}
    if isinstance(value, list) and len(value) > _EMBEDDED_POINTS and not isinstance(value[0], dict):
        step = -(-len(value) // _EMBEDDED_POINTS)
        return [*value[:-1:step], value[-1]]
    if isinstance(value, list):
        return [_slim(item) for item in value]
    return value
