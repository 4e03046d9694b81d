"""Models that answer per token, run beside their parents: nothing of a batch outlives it.

Logits over a vocabulary are too many to keep. So a batch is answered by a model and its parent,
compared at its real tokens, turned into what the metric reads, and dropped.

Shape letters: B batch, N tokens, C outcomes, P real tokens.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolchain.data.batching import Batch, Rows, in_order
from toolchain.distill.evaluate import Answers, answers_of, rows_at_once
from toolchain.distill.surgery.fake_int8 import Rounding
from toolchain.errors import UsageError
from toolchain.measurement import Parity
from toolchain.models.loading import load_model
from toolchain.models.outputs import logits_of
from toolchain.recipe import DataTask
from toolchain.runtimes.runtime import Feed, Session, runtimes
from toolchain.steps.aware import rounding_of
from toolchain.steps.variants import Variant
from toolchain.verify.parity import Comparison

__all__ = ["side_by_side"]

_BATCH = 32
_PROVIDER = "CPUExecutionProvider"


def side_by_side(
    variant: Variant, parent: Variant | None, rows: Rows, *, task: DataTask, threads: int
) -> tuple[Answers, Parity | None]:
    """Return what a model answers to rows, and how far that is from its parent's answers."""
    with ExitStack() as opened:
        ours, theirs = (
            opened.enter_context(closing(_open(v, task, threads))) if v else None
            for v in (variant, parent)
        )
        assert ours is not None
        comparison = Comparison(task)
        answers = answers_of(
            rows, _answered(ours, theirs, rows, _size(variant, ours, rows), comparison)
        )
    return answers, comparison.parity(parent.name) if parent else None


def _open(variant: Variant, task: DataTask, threads: int) -> Session:
    if variant.rounded:
        return _RoundedSession(variant.path, variant.rounded, task)
    return runtimes.get(variant.runtime)(variant.path, threads=threads, provider=_PROVIDER)


class _RoundedSession:
    """A PyTorch model that computes with the rounding of its int8 file."""

    def __init__(self, path: Path, exported: Path, task: DataTask) -> None:
        self._model = load_model(path, task)
        Rounding(rounding_of(path, exported, task), self._model)

    def run(self, feed: Feed) -> NDArray[np.float32]:
        """Return the logits (B, N, C) of a feed of (B, N) arrays."""
        with torch.inference_mode():
            outputs = self._model(**{n: torch.from_numpy(a) for n, a in feed.items()})
        return logits_of(outputs).numpy()

    def generate(self, feed: Feed, count: int) -> NDArray[np.int64]:  # noqa: ARG002
        """Raise UsageError: only encoders are trained for int8."""
        raise UsageError("a model that rounds like its int8 file is an encoder and writes no text")

    def close(self) -> None:
        """Nothing was opened."""


def _size(variant: Variant, session: Session, rows: Rows) -> int:
    """Return the rows of a batch: quantised models are judged as they are used, one at a time."""
    if variant.precision != "fp32":
        return 1
    outcomes = session.run(_feed(next(in_order(rows, 1)))).shape[-1]
    return min(_BATCH, rows_at_once(rows, outcomes))


def _answered(
    ours: Session, theirs: Session | None, rows: Rows, size: int, comparison: Comparison
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch with the model's logits, after comparing them with the parent's."""
    for batch in in_order(rows, size):
        feed = _feed(batch)
        logits_BNC = ours.run(feed)
        if theirs is not None:
            real_BN = feed["attention_mask"].astype(bool)
            parents_BNC = theirs.run(feed)
            if rows.task == "qa":
                for ours_N2, theirs_N2, real_N in zip(
                    logits_BNC, parents_BNC, real_BN, strict=True
                ):
                    comparison.add(ours_N2[real_N].T, theirs_N2[real_N].T)
            else:
                comparison.add(logits_BNC[real_BN], parents_BNC[real_BN])
        yield batch, torch.from_numpy(logits_BNC)


def _feed(batch: Batch) -> dict[str, NDArray[np.int64]]:
    return {name: tensor.numpy() for name, tensor in batch.inputs.items()}
