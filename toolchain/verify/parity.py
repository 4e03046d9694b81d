"""Outputs against the parent's on the same inputs: how far, in which direction, which decisions.

Shapes: R rows, C classes. Cosines per row are those of raw logits, vectors of C figures. For small
C they are coarse: with two classes a row whose logits nearly cancel (0.02, -0.01) turns by a right
angle when either moves by 0.03, so a handful of close calls decides the mean. What gates judge is
therefore the cosine of all logits taken as one vector of R x C figures, where a row counts as much
as its logits are large; `agreement` says what it means for the decisions.

What a decision is follows from the task: the most likely class; the whole set of labels above 0.5;
a score, which is the same where it is within a tenth of the standard deviation of the parent's; an
embedding, which is the same where its cosine with the parent's is at least 0.99.
Models that answer per token are compared token by token, padding left out; there R counts tokens.
Of questions, begin and end of an answer are a row each, whose outcomes are the window's tokens.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import IntegrityError
from toolchain.measurement import Parity
from toolchain.recipe import DataTask
from toolchain.runtimes.runtime import Feed, Session
from toolchain.spec import TOKENS

__all__ = ["Comparison", "compare", "logits_of"]

# Scores this near, in standard deviations of the parent's scores, are the same answer.
_SAME_SCORE = 0.1
# Embeddings this near are the same answer.
_SAME_DIRECTION = 0.99


def logits_of(session: Session, batches: Iterable[Feed]) -> NDArray[np.float32]:
    """Run a session over padded batches and return all logits (R, C), in the order of `batches`.

    Batches made by length hold rows out of their original order; putting them back is the
    caller's job, who made the batches. Raises IntegrityError when there is nothing to run.
    """
    parts = [session.run(feed) for feed in batches]
    if not parts:
        raise IntegrityError("no batch to run: there are no rows to compare on")
    return np.concatenate(parts, axis=0)


def compare(
    candidate: NDArray[np.floating],
    parent: NDArray[np.floating],
    *,
    against: str,
    task: DataTask = "classify",
) -> Parity:
    """Compare two (R, C) arrays of logits of the same rows; `against` names the parent.

    `task` says what of them is a decision: classify, multi_label, regress or embed.

    A row with NaN or infinity on either side counts as an infinite distance, a cosine of -1 and a
    different decision; so does a comparison of no rows. So neither can pass a gate. Ties of a
    decision go to the first class. Raises IntegrityError when the shapes differ.
    """
    known = parent[np.isfinite(parent)].astype(np.float64)
    near = _SAME_SCORE * float(known.std()) if task == "regress" and known.size else 0.0
    comparison = Comparison(task, near=near)
    comparison.add(candidate, parent)
    return comparison.parity(against)


class Comparison:
    """Two models' logits of the same rows compared piece by piece; no piece is kept.

    Rows are what has an answer of its own: single tokens where `task` answers per token. `near` is
    how far scores may be from each other and still be the same answer.
    """

    def __init__(self, task: DataTask, *, near: float = 0.0) -> None:
        self._task, self._near = task, near
        self._rows = self._equal = 0
        self._max_abs, self._min_cosine, self._cosines = 0.0, 1.0, 0.0
        self._dot = self._ours = self._theirs = 0.0

    def add(self, candidate: NDArray[np.floating], parent: NDArray[np.floating]) -> None:
        """Take in further rows of both, (R, C) each. Raises IntegrityError when shapes differ."""
        if candidate.shape != parent.shape or candidate.ndim != 2:
            raise IntegrityError(
                f"logits of shape {candidate.shape} cannot be compared with {parent.shape} "
                "of the parent: expected the same rows and classes"
            )
        if candidate.size == 0:
            return
        ours, theirs = candidate.astype(np.float64), parent.astype(np.float64)
        finite = np.isfinite(ours).all(axis=1) & np.isfinite(theirs).all(axis=1)
        self._rows += len(ours)
        if not finite.all():
            self._max_abs, self._min_cosine = float("inf"), -1.0
            self._cosines -= float((~finite).sum())
            ours, theirs = ours[finite], theirs[finite]
        if not len(ours):
            return
        cosines = _cosines(ours, theirs)
        self._cosines += float(cosines.sum())
        self._min_cosine = min(self._min_cosine, float(cosines.min()))
        self._max_abs = max(self._max_abs, float(np.abs(ours - theirs).max()))
        self._equal += int(_same_decisions(ours, theirs, self._task, self._near).sum())
        self._dot += float((ours * theirs).sum())
        self._ours += float((ours * ours).sum())
        self._theirs += float((theirs * theirs).sum())

    def parity(self, against: str) -> Parity:
        """Return what was found; `against` names the parent."""
        rows = self._rows
        alive = rows > 0 and np.isfinite(self._max_abs)
        return Parity(
            against=against,
            max_abs=self._max_abs if rows else float("inf"),
            cosine=self._overall() if alive else -1.0,
            mean_cosine=self._cosines / rows if rows else -1.0,
            min_cosine=self._min_cosine if rows else -1.0,
            agreement=self._equal / rows if rows else 0.0,
            rows=rows,
            unit="ends" if self._task == "qa" else "tokens" if self._task in TOKENS else "rows",
        )

    def _overall(self) -> float:
        """Return the cosine of all logits taken as one vector."""
        if not self._ours and not self._theirs:
            return 1.0
        product = float(np.sqrt(self._ours) * np.sqrt(self._theirs))
        return min(1.0, max(-1.0, self._dot / product)) if product else 0.0


def _same_decisions(
    ours_RC: NDArray[np.float64], theirs_RC: NDArray[np.float64], task: DataTask, near: float
) -> NDArray[np.bool_]:
    """Return for each row whether both sides answer the same, (R,)."""
    match task:
        case "multi_label":
            return np.asarray(((ours_RC > 0) == (theirs_RC > 0)).all(axis=1))
        case "embed":
            return _cosines(ours_RC, theirs_RC) >= _SAME_DIRECTION
        case "regress":
            return np.asarray((np.abs(ours_RC - theirs_RC) <= near).all(axis=1))
        case _:
            return np.asarray(ours_RC.argmax(axis=1) == theirs_RC.argmax(axis=1))


def _cosines(a_RC: NDArray[np.float64], b_RC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of each row; two zero rows point the same way, one zero row nowhere."""
    a, b = _scaled(a_RC), _scaled(b_RC)
    product = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = (a * b).sum(axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    cosines = np.zeros_like(dots)
    np.divide(dots, product, out=cosines, where=product > 0)
    return np.clip(np.where(both_zero, 1.0, cosines), -1.0, 1.0)


def _scaled(rows_RC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each row with its largest entry at 1, so that tiny rows do not underflow."""
    largest = np.abs(rows_RC).max(axis=1, keepdims=True)
    scaled = np.zeros_like(rows_RC)
    np.divide(rows_RC, largest, out=scaled, where=largest > 0)
    return scaled
