"""Whether text operators can be had; asked by plans, so it imports nothing."""

import importlib.util

from toolchain.errors import UsageError

__all__ = ["check_extensions"]


def check_extensions() -> None:
    """Raise UsageError unless onnxruntime-extensions is installed."""
    if importlib.util.find_spec("onnxruntime_extensions") is None:
        raise UsageError(
            "a tokenizer inside the graph needs onnxruntime-extensions, which is not installed",
            "pip install 'toolchain[extensions]', or leave the tokenizer beside the model",
        )
