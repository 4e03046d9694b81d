"""Which logits a task supervises, as rows: the one place that knows what tasks look like.

A classifier has one row of logits per sequence. Every class of a multi-label task is a row of two
outcomes (0, z), whose softmax is the sigmoid of z, so that every objective works on it unchanged.
Tagging and language models have one row per supervised token. A regression has rows of one score.
A question has two rows whose outcomes are the tokens: where its answer begins, where it ends.

Models with different tokenizers have unequal numbers of supervised tokens; which of their rows
stand beside each other is decided here too (`aligned`).

Shape letters: B batch, N tokens, C classes or outcomes, P rows, A rows that are compared.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from toolchain.data.masking import IGNORED
from toolchain.spec import Task

__all__ = ["Alignment", "Positions", "aligned", "positions_of"]


@dataclass(frozen=True)
class Positions:
    """The supervised positions of one batch: labels (P,), the sequence of each row (P,) or None."""

    task: Task
    labels_P: Tensor
    sample_P: Tensor | None
    _token_P: Tensor | None = None

    def rows(self, logits: Tensor) -> Tensor:
        """Return the logits of the supervised positions, (P, C); of questions (2 B, N)."""
        if self.task == "qa":
            return logits.transpose(1, 2).flatten(0, 1)
        if self.task == "multi_label":
            z_P = logits.flatten()
            return torch.stack([torch.zeros_like(z_P), z_P], dim=-1)
        if self.sample_P is None or self._token_P is None:
            return logits
        return logits[self.sample_P, self._token_P]


def positions_of(task: Task, labels: Tensor) -> Positions:
    """Return the supervised positions of a batch with these labels.

    `labels` are class ids (B,), zeros and ones (B, C) for multi-label, scores (B,) for regression,
    ids (B, N) with -100 where a token is not supervised for tagging and language models, begin and
    end (B, 2) for questions. A language model's labels already stand at the position that predicts
    them.
    """
    if task == "qa":
        samples = torch.arange(labels.shape[0], device=labels.device)
        # Texts that are read without labels have one zero each.
        ends_B2 = labels if labels.ndim == 2 else labels[:, None].expand(-1, 2)
        return Positions(task, ends_B2.flatten(), samples.repeat_interleave(2))
    if task == "multi_label":
        samples = torch.arange(labels.shape[0], device=labels.device)
        return Positions(task, labels.flatten().long(), samples.repeat_interleave(labels.shape[1]))
    if labels.ndim == 1:
        return Positions(task, labels, None)
    sample_P, token_P = (labels != IGNORED).nonzero(as_tuple=True)
    return Positions(task, labels[sample_P, token_P], sample_P, token_P)


@dataclass(frozen=True)
class Alignment:
    """Which rows (A,) of the student and of a teacher with other tokens are compared, in order."""

    student_A: Tensor
    teacher_A: Tensor


def aligned(student: Positions, teacher: Positions, sequences: int) -> Alignment | None:
    """Return the rows of a batch of `sequences` that stand beside each other.

    Row i of a sequence stands beside row i, for the first min(n_S, n_T) supervised tokens of each
    (ULD, arXiv 2402.12030). None where rows are not tokens: then all stand as they are.
    """
    s_P, t_P = student.sample_P, teacher.sample_P
    if s_P is None or t_P is None or student.task == "multi_label":
        return None
    s_B, t_B = (torch.bincount(sample_P, minlength=sequences) for sample_P in (s_P, t_P))
    common_B = torch.minimum(s_B, t_B)
    return Alignment(_first(s_P, s_B, common_B), _first(t_P, t_B, common_B))


def _first(sample_P: Tensor, count_B: Tensor, kept_B: Tensor) -> Tensor:
    """Return the numbers (A,) of the first `kept_B` rows of each sequence, which has `count_B`."""
    # Rows come sequence by sequence, so a row's place counts from its sequence's first.
    first_B = count_B.cumsum(0) - count_B
    place_P = torch.arange(len(sample_P), device=sample_P.device) - first_B[sample_P]
    return (place_P < kept_B[sample_P]).nonzero().squeeze(-1)
