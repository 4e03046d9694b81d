"""What every runtime offers: open a model, feed it arrays of tokens, get logits.

Shape letters: B batch, N tokens, C outcomes. A runtime is a module of `toolchain.runtimes.adapters`
(or of the entry-point group `toolchain.runtimes`) whose `open_session` follows `OpenSession`; its
name is the `runtime.name` of a target.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from toolchain.registry import Registry

__all__ = ["Feed", "OpenSession", "Session", "runtimes"]

Feed = Mapping[str, NDArray[np.int64]]
"""Inputs by name (input_ids, attention_mask, ...), each (B, N); a session takes what it needs."""


class Session(Protocol):
    """An opened model, used by one thread at a time."""

    def run(self, feed: Feed) -> NDArray[np.float32]:
        """Return the logits in host memory: (B, C), or (B, N, C) of a model of tokens.

        Raises UsageError when the feed lacks an input, StepError when the runtime refuses it.
        """

    def generate(self, feed: Feed, count: int) -> NDArray[np.int64]:
        """Return the `count` tokens that follow one prompt, the likeliest each time, (1, count).

        The feed is one row without padding. Raises UsageError for a model without a cache.
        """

    def close(self) -> None:
        """Give the model's memory back; the session is not used afterwards."""


class OpenSession(Protocol):
    """How a runtime opens a model."""

    def __call__(self, path: Path, *, threads: int, provider: str) -> Session:
        """Open the model at `path` on `threads` threads of the named execution provider.

        Raises UsageError for a missing path, an unknown provider or a model of another kind, and
        IntegrityError for a damaged file.
        """


runtimes: Registry[OpenSession] = Registry("runtime", "toolchain.runtimes.adapters", "open_session")
