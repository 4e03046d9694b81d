"""What a model answers to a whole split, in the form its metric reads. For dev and final figures.

Shape letters: R rows, B batch, N tokens, C classes, V vocabulary, P supervised positions.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from toolchain.data.batching import Batch, Rows, in_order
from toolchain.data.masking import IGNORED
from toolchain.data.windows import Best, best_of, replies_of
from toolchain.metrics import Embeddings, Outputs, Replies, TagLogits, TokenSums
from toolchain.models.outputs import logits_of
from toolchain.spec import LANGUAGE

__all__ = ["Answered", "Answers", "answers_of", "evaluate", "logits_of_rows", "rows_at_once"]

# Logits over a vocabulary that are alive together, in values: 2^26 of fp32 are 256 MiB.
_LOGITS = 1 << 26


Answered = Iterable[tuple[Batch, Tensor]]
"""Batches in any order, each with its logits: (B, C), or (B, N, C) of a model of tokens."""


@dataclass(frozen=True)
class Answers:
    """What a model answered and what was right: `metrics.score(name, a.outputs, a.labels)`.

    Sentence tasks: logits (R, C) in the order of the rows, and their labels. Tagging: TagLogits and
    tag ids (P,). Language models: TokenSums, which hold what is needed of the labels, and None.
    Embeddings: Embeddings, and what they are judged by; None where nothing is known yet. Questions:
    Replies, which hold the right answers, and None.
    """

    outputs: Outputs
    labels: NDArray[np.int64] | NDArray[np.float32] | None


def evaluate(
    model: PreTrainedModel,
    rows: Rows,
    *,
    batch_size: int = 64,
    bf16: bool = False,
    inference: bool = True,
) -> Answers:
    """Return what a model answers to rows of any task; its mode is restored afterwards.

    A model in pieces is not asked in `inference` mode: what is gathered for it stays beyond it.

    Logits over a vocabulary are reduced batch by batch and never kept; a masked language model is
    asked for the same tokens every time.
    """
    size = batch_size
    if rows.task in LANGUAGE:
        vocab = int(model.config.get_text_config().vocab_size)
        size = min(batch_size, rows_at_once(rows, vocab))
    return answers_of(rows, _answered(model, rows, size, bf16, inference))


def answers_of(rows: Rows, answered: Answered) -> Answers:
    """Return what was answered to rows of any task, whoever answered; each batch is read once."""
    match rows.task:
        case "tag":
            return _tags(rows, answered)
        case "causal_lm" | "mask_lm":
            return Answers(_tokens(rows, answered), None)
        case "qa":
            return Answers(_replies(rows, answered), None)
        case "embed":
            return Answers(Embeddings(vectors=_logits(rows, answered)), rows.similar)
        case _:
            assert isinstance(rows.labels, np.ndarray)
            return Answers(_logits(rows, answered), rows.labels)


def rows_at_once(rows: Rows, outcomes: int) -> int:
    """Return how many of the longest rows may have logits over so many outcomes at a time."""
    return max(1, _LOGITS // (int(rows.lengths.max()) * outcomes))


def logits_of_rows(
    model: PreTrainedModel,
    rows: Rows,
    *,
    batch_size: int = 64,
    bf16: bool = False,
    inference: bool = True,
) -> NDArray[np.float32]:
    """Return logits (R, C) in float32; the model's mode is restored afterwards."""
    return _logits(rows, _answered(model, rows, batch_size, bf16, inference))


def _logits(rows: Rows, answered: Answered) -> NDArray[np.float32]:
    logits_RC: NDArray[np.float32] | None = None
    for batch, logits in answered:
        logits_BC = logits.float().cpu().numpy()
        if logits_RC is None:
            logits_RC = np.empty((len(rows), logits_BC.shape[1]), dtype=np.float32)
        logits_RC[list(batch.rows)] = logits_BC
    assert logits_RC is not None, "no rows to evaluate"
    return logits_RC


def _tags(rows: Rows, answered: Answered) -> Answers:
    assert isinstance(rows.labels, tuple)
    gold = [labels[labels != IGNORED] for labels in rows.labels]
    starts = np.concatenate([[0], np.cumsum([len(labels) for labels in gold])]).astype(np.int64)
    logits_PC: NDArray[np.float32] | None = None
    for batch, logits_BNC in answered:
        words_BN = batch.labels != IGNORED
        if logits_PC is None:
            logits_PC = np.empty((int(starts[-1]), logits_BNC.shape[2]), dtype=np.float32)
        for b, row in enumerate(batch.rows):
            logits_PC[starts[row] : starts[row + 1]] = (
                logits_BNC[b, words_BN[b]].float().cpu().numpy()
            )
    assert logits_PC is not None, "no rows to evaluate"
    outputs = TagLogits(logits=logits_PC, starts=starts, names=rows.names)
    return Answers(outputs, np.concatenate(gold))


def _replies(rows: Rows, answered: Answered) -> Replies:
    """Return the answer to every question, from the figures (B, N, 2) of its windows."""
    asked = rows.asked
    assert asked is not None, "these rows are windows of questions"
    found = [Best(-np.inf, 0, 0, 0.0)] * len(rows)
    finite = True
    for batch, logits_BN2 in answered:
        ends_BN2 = logits_BN2.float().cpu().numpy()
        for b, row in enumerate(batch.rows):
            offsets = asked.offsets[row]
            own = ends_BN2[b, : len(offsets)]
            finite = finite and bool(np.isfinite(own).all())
            found[row] = best_of(own, offsets)
    texts = tuple(replies_of(asked, found))
    return Replies(texts=texts, answers=asked.answers, finite=finite)


def _tokens(rows: Rows, answered: Answered) -> TokenSums:
    nll = np.zeros(len(rows), dtype=np.float64)
    right = np.zeros(len(rows), dtype=np.int64)
    tokens = np.zeros(len(rows), dtype=np.int64)
    for batch, logits_BNV in answered:
        wanted_BN = batch.labels != IGNORED
        # Only supervised positions are turned to fp32: one in seven of a masked model's.
        logits_PV = logits_BNV[wanted_BN].float()
        labels_P = batch.labels[wanted_BN]
        loss_P = torch.nn.functional.cross_entropy(logits_PV, labels_P, reduction="none")
        row_P = np.asarray(batch.rows)[wanted_BN.nonzero()[:, 0].cpu().numpy()]
        np.add.at(nll, row_P, loss_P.double().cpu().numpy())
        np.add.at(right, row_P, (logits_PV.argmax(-1) == labels_P).cpu().numpy())
        np.add.at(tokens, row_P, 1)
    return TokenSums(nll=nll, right=right, tokens=tokens)


def _answered(
    model: PreTrainedModel, rows: Rows, batch_size: int, bf16: bool, inference: bool
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch, on the model's device, with its logits."""
    device = next(model.parameters()).device
    for batch in in_order(rows, batch_size):
        moved = batch.to(device)
        with _evaluating(model, device, bf16, inference):
            logits = logits_of(model(**moved.inputs))
        yield moved, logits


@contextmanager
def _evaluating(
    model: PreTrainedModel, device: torch.device, bf16: bool, inference: bool
) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        apart = torch.inference_mode() if inference else torch.no_grad()
        with apart, torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            yield
    finally:
        model.train(was_training)
