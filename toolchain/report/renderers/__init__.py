"""One file per rendering: `render(report) -> bytes`."""

from collections.abc import Callable

from toolchain.registry import Registry
from toolchain.report.report import Report

__all__ = ["RENDERERS"]

RENDERERS: Registry[Callable[[Report], bytes]] = Registry(
    "renderer", "toolchain.report.renderers", "render"
)
