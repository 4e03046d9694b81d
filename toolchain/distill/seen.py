"""What a step has seen: captures of all models by view, and how terms read them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from toolchain.distill.aggregation import Said
from toolchain.distill.capture import Captures
from toolchain.distill.context import Context
from toolchain.distill.extract import Extract, Request, attn_scores
from toolchain.distill.objectives.objective import log_softmax
from toolchain.distill.positions import Alignment
from toolchain.distill.term import BoundTerm

__all__ = [
    "Apart",
    "Seen",
    "knowledge",
    "layers",
    "logits_of",
    "no_rows",
    "over_places",
    "part",
    "said",
]


@dataclass(frozen=True)
class Apart:
    """A teacher that reads other tokens than the student: its own context, and what is compared.

    `rows` says which rows of logits stand beside each other (None: all), `shared` is the student's
    context of them.
    """

    own: Context
    shared: Context
    rows: Alignment | None


@dataclass(frozen=True)
class Seen:
    """One view of a micro-batch: what the student and each teacher knew of it, and its context.

    `apart` holds the numbers of the teachers that read tokens of their own.
    """

    student: Captures
    teachers: tuple[Captures, ...]
    context: Context
    apart: Mapping[int, Apart] = field(default_factory=dict)

    def around(self, bound: BoundTerm) -> Context:
        """Return the context of what a term compares."""
        apart = self.apart.get(bound.teacher)
        return self.context if apart is None or bound.term.extract.is_gold else apart.shared


def layers(bound: BoundTerm, side: str) -> tuple[int, ...]:
    """Return the layers a term reads of one side."""
    return bound.layer_map.student if side == "student" else bound.layer_map.teacher


def knowledge(captures: Captures, extract: Extract, layer: int, context: Context) -> Tensor:
    """Return one kind of knowledge of one layer."""
    if extract.kind != "attn_probs":
        return captures.get(extract, layer)
    scores = captures.get(attn_scores, layer)
    keys = dataclasses.replace(context, outcomes=context.keys_B1NN)
    return log_softmax(scores, 1.0, keys).exp()


def logits_of(bound: BoundTerm, student: Captures) -> Tensor:
    """Return the student's logits (P, C) that the term reads: its own, or those of one head."""
    (request,) = bound.requests("student")
    return student.tensor(request)


def over_places(context: Context) -> Context:
    """Return the context of rows of logits: where their outcomes are tokens, padding is none."""
    return dataclasses.replace(context, outcomes=context.places_PN)


def said(plain: Seen) -> Said:
    """Return what an aggregation may look at."""
    return Said(
        student=plain.student.tensor(Request("logits")).detach(),
        teachers=tuple(t.tensor(Request("logits")).detach() for t in plain.teachers),
        context=over_places(plain.context),
        knowledge=plain.student,
    )


def no_rows(bound: BoundTerm, context: Context) -> Tensor:
    """Return the numerators of a pair that does not count now: zeros, without a graph."""
    rows = context.rows if bound.term.reduction.over == "logits" else context.mask_BN.shape[0]
    return context.mask_BN.new_zeros(rows, dtype=torch.float32)


def part(context: Context, rows: slice, of_rows: bool) -> Context:
    """Return the context of some rows of logits, or of some sequences."""

    def some(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[rows]

    if of_rows:
        return dataclasses.replace(
            context,
            labels_P=some(context.labels_P),
            sample_P=some(context.sample_P),
            outcomes=some(context.outcomes),
        )
    return dataclasses.replace(
        context,
        mask_BN=context.mask_BN[rows],
        outcomes=some(context.outcomes),
        guide=some(context.guide),
    )
