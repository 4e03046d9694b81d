"""Distiller: terms and what they learn to one loss.

It stands outside the student and owns every learned projection and every running value: they are
trained with the student, clipped with it, saved with the run, and never exported.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from toolchain.distill.aggregation import Aggregation, Lesson
from toolchain.distill.balance import Balance
from toolchain.distill.capture import Captures
from toolchain.distill.context import Context, Moment
from toolchain.distill.matching import Pair
from toolchain.distill.memory import PIECE, splits
from toolchain.distill.ranks import Beside, beside, gathered
from toolchain.distill.seen import (
    Apart,
    Seen,
    knowledge,
    layers,
    logits_of,
    no_rows,
    over_places,
    part,
    said,
)
from toolchain.distill.skips import Skips, clock_key, is_watched, turn_name
from toolchain.distill.term import BoundTerm

__all__ = ["Distiller", "Observer"]


@runtime_checkable
class Observer(Protocol):
    """A learned module of an objective or a matching that follows its term's value."""

    def observe(self, value: float) -> None:
        """Take the term's value over the whole global batch of the step."""


class Distiller(nn.Module):
    """Computes the loss of bound terms."""

    def __init__(
        self,
        terms: Sequence[BoundTerm],
        *,
        aggregation: Aggregation | None = None,
        balance: bool = False,
    ) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self.learned = nn.ModuleDict()
        self._grouped: set[str] = set()
        for bound in self.terms:
            self._build(bound)
        self.balance = Balance(len(self.terms)) if balance else None
        self.aggregation = aggregation
        if aggregation:
            self._own("aggregation", aggregation.module())

    def forward(
        self, seen: Mapping[str, Seen], denominators: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Return each term's value before weight and schedule, for one micro-batch.

        Of a term that a clock watches, `<term>/turn` is the value of the layer whose turn it is.

        `seen` holds the plain view and those of operators; terms whose view is not there, or that
        have no denominator, are left out. `denominators` are those of the whole global batch, so
        that the values of micro-batches and ranks add up to one masked mean.
        """
        plain = seen["plain"]
        values = {}
        # The models may run in bf16; what compares them never does.
        with torch.autocast(plain.context.mask_BN.device.type, enabled=False):
            weights_KP = self._weights(plain)
            for bound in self.terms:
                if bound.term.view not in seen or bound.name not in denominators:
                    continue
                zero = plain.context.mask_BN.new_zeros((), dtype=torch.float32)
                turn = zero
                if bound.term.schedule(self._progress(bound, plain.context.moment)):
                    rows, own_turn = self._rows(bound, seen[bound.term.view])
                    turn = turn if own_turn is None else own_turn
                    if weights_KP is not None and bound.requests("teacher"):
                        apart = plain.apart.get(bound.teacher)
                        rows = self._weighed(bound, rows, weights_KP, plain.context, apart)
                    values[bound.name] = rows.sum() / (denominators[bound.name] or 1.0)
                else:
                    values[bound.name] = zero
                if is_watched(bound):
                    values[turn_name(bound)] = turn / (denominators[bound.name] or 1.0)
        return values

    def total(self, values: Mapping[str, Tensor], moment: Moment) -> Tensor:
        """Return the weighted sum."""
        return torch.stack(list(self.weighted(values, moment).values())).sum()

    def weighted(self, values: Mapping[str, Tensor], moment: Moment) -> dict[str, Tensor]:
        """Return each term's share of the loss: weight, schedule and balance applied."""
        scales = self.balance.scales() if self.balance else [1.0] * len(self.terms)
        return {
            b.name: b.term.weight
            * b.term.schedule(self._progress(b, moment))
            * scale
            * values[b.name]
            for b, scale in zip(self.terms, scales, strict=True)
            if b.name in values
        }

    def lesson(self, plain: Seen, after: Tensor) -> Lesson | None:
        """Return what the finished step teaches the aggregation; None where it does not learn.

        `plain` is what all models knew before the student's update, `after` its logits (P, C) now.
        """
        if self.aggregation is None or not self.aggregation.learns or not plain.teachers:
            return None
        with torch.autocast(plain.context.mask_BN.device.type, enabled=False):
            return self.aggregation.lesson(said(plain), after.detach(), self._module("aggregation"))

    def taught(self, reward: float) -> None:
        """Tell the aggregation the mean reward of the step, over the global batch."""
        module: object = self._module("aggregation")
        if isinstance(module, Observer):
            module.observe(reward)

    def observe(self, values: Mapping[str, float]) -> None:
        """Tell everything that adapts the terms' global values of this step."""
        if self.balance:
            self.balance.observe([values[b.name] for b in self.terms])
        for bound in self.terms:
            for key in (f"{_safe(bound.name)}_objective", _match_key(bound)):
                module: object = self._module(key)
                if isinstance(module, Observer):
                    module.observe(values[bound.name])
        for key in {clock_key(b) for b in self.terms if is_watched(b)}:
            watched = [b for b in self.terms if is_watched(b) and clock_key(b) == key]
            clock: object = self._module(key)
            assert isinstance(clock, Observer)
            clock.observe(max(values[turn_name(b)] for b in watched))

    def adopt(self, learned: Mapping[str, Tensor]) -> None:
        """Go on from what an earlier stage's distiller learned in groups of the same name."""
        own = self.state_dict()
        for name, tensor in learned.items():
            key = name.removeprefix("learned.").partition(".")[0]
            if key in self._grouped and name in own and own[name].shape == tensor.shape:
                own[name].copy_(tensor)

    def _build(self, bound: BoundTerm) -> None:
        for i, transform in enumerate(bound.transforms):
            for side in ("student", "teacher"):
                if transform.side in ("both", side):
                    shape = bound.sides[i][0 if side == "student" else 1]
                    for layer in layers(bound, side):
                        key = self._key(bound, i, side, layer)
                        if transform.group:
                            self._grouped.add(key)
                        if key not in self.learned:
                            self._own(key, transform.module(shape))
        self._own(f"{_safe(bound.name)}_objective", bound.objective.module())
        key = _match_key(bound)
        if bound.term.match.group:
            self._grouped.add(key)
        if key not in self.learned:
            self._own(key, bound.term.match.module(bound.layer_map))
        if bound.term.clock and is_watched(bound):
            self._own(clock_key(bound), bound.term.clock.module(len(bound.layer_map.pairs)))

    def _own(self, key: str, module: nn.Module | None) -> None:
        if module is not None:
            self.learned[key] = module

    def _module(self, key: str) -> nn.Module | None:
        return dict(self.learned.items()).get(key)

    def _progress(self, bound: BoundTerm, moment: Moment) -> float:
        """Return what the term's schedule reads."""
        if bound.term.clock is None:
            return moment.progress
        clock = self._module(clock_key(bound))
        assert isinstance(clock, Skips), f"{bound.name}: its clock watches no term of the stage"
        return clock.at(moment)

    def _rows(self, bound: BoundTerm, seen: Seen) -> tuple[Tensor, Tensor | None]:
        """Return the value of each row, and the sum of the layer's whose turn a clock watches."""
        term = bound.term
        if term.extract.is_gold:
            assert seen.context.labels_P is not None, "these rows have no labels"
            logits, around = logits_of(bound, seen.student), over_places(seen.context)
            return bound.objective(logits, seen.context.labels_P, around), None
        teacher = seen.teachers[bound.teacher]
        context = seen.around(bound)
        if term.reduction.over in ("query", "pair"):
            context = dataclasses.replace(context, outcomes=context.keys_B1NN)
        elif term.reduction.over == "logits":
            context = over_places(context)
        if seen.student.decoder and teacher.decoder:
            decoders = (seen.student.decoder, teacher.decoder)
            context = dataclasses.replace(context, decoders=decoders)
        among = beside(context) if bound.across else None
        matched = self._pairs(bound, seen, context, among)
        # Pairs of a random matching change from step to step; their number does not.
        pairs = list(term.match.pair(bound.layer_map, *matched, context))
        numerators = []
        progress = self._progress(bound, context.moment)
        for i, pair in enumerate(pairs):
            share = term.schedule.of_pair(progress, i, len(pairs))
            if share:
                numerators.append(share * self._compared(bound, pair, teacher, context, among))
            else:
                # Not zero times its value: a gradient of zeros would still decay the weights.
                numerators.append(no_rows(bound, context))
        module = self._module(_match_key(bound))
        combined = term.match.combine(bound.layer_map, numerators, module, context)
        if term.layers == "mean":
            combined = combined / len(pairs)
        return combined, self._turn_of(bound, progress, numerators)

    def _turn_of(
        self, bound: BoundTerm, progress: float, numerators: Sequence[Tensor]
    ) -> Tensor | None:
        if not is_watched(bound):
            return None
        clock = self._module(clock_key(bound))
        assert isinstance(clock, Skips)
        turn = clock.turn(progress)
        return numerators[turn].detach().sum() if turn < len(numerators) else None

    def _pairs(
        self, bound: BoundTerm, seen: Seen, context: Context, among: Beside | None
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        sides: list[dict[int, Tensor]] = []
        apart = seen.apart.get(bound.teacher)
        teacher = seen.teachers[bound.teacher]
        for side, captures in (("student", seen.student), ("teacher", teacher)):
            around = apart.own if apart and side == "teacher" else context
            if side == "student" and bound.term.extract.kind == "head":
                read = {0: logits_of(bound, captures)}
            else:
                extract = bound.term.extract
                read = {n: knowledge(captures, extract, n, around) for n in layers(bound, side)}
            if _of_logits(bound) and around.places_PN is not None:
                # Equal on both sides, so that no distance sees padding.
                padding_PN = ~around.places_PN
                read = {n: values.masked_fill(padding_PN, 0) for n, values in read.items()}
            if apart and apart.rows and _of_logits(bound):
                rows = apart.rows.student_A if side == "student" else apart.rows.teacher_A
                read = {n: values[rows] for n, values in read.items()}
            if among:
                read = {n: gathered(values) for n, values in read.items()}
                theirs = beside(around) if around is not context else among
                assert theirs is not None
                around = theirs.context
            if side == "teacher":
                # Its own projections may learn; the teacher never does.
                read = {n: values.detach() for n, values in read.items()}
            if bound.term.match.stacked:
                index = 0 if side == "student" else 1
                stack = [read[pair[index]] for pair in bound.layer_map.pairs]
                read = {0: torch.stack(stack, dim=2)}
            if not _by_rows(bound):
                read = {n: self._transformed(bound, side, n, x, around) for n, x in read.items()}
            sides.append(read)
        return sides[0], sides[1]

    def _transformed(
        self, bound: BoundTerm, side: str, layer: int, values: Tensor, context: Context
    ) -> Tensor:
        for i, transform in enumerate(bound.transforms):
            if transform.side in ("both", side):
                module = self._module(self._key(bound, i, side, layer))
                values = transform(values, context, module)
        return values

    def _compared(
        self,
        bound: BoundTerm,
        pair: Pair,
        teacher: Captures,
        context: Context,
        among: Beside | None = None,
    ) -> Tensor:
        term = bound.term
        if term.guide and bound.objective.chooses(context.mask_BN.shape[1]):
            guide = knowledge(teacher, term.guide, max(1, pair.teacher_layer), context).detach()
            context = dataclasses.replace(context, guide=guide)
        module = self._module(f"{_safe(bound.name)}_objective")

        def numerators(s: Tensor, t: Tensor, around: Context) -> Tensor:
            if _by_rows(bound):
                s = self._transformed(bound, "student", 0, s, around)
                t = self._transformed(bound, "teacher", 0, t, around)
            return term.reduction.numerators(bound.objective(s, t, around, module), around)

        if among:
            own = among.logits if term.reduction.over == "logits" else among.sequences
            return numerators(pair.student, pair.teacher, among.context)[own]
        if not _too_large(pair.student, bound):
            return numerators(pair.student, pair.teacher, context)
        size = max(1, PIECE // _row_size(pair.student, bound))
        # Split, not sliced: each slice's gradient would be a tensor of the whole size.
        sides = zip(*(torch.split(x, size) for x in (pair.student, pair.teacher)), strict=True)
        pieces = []
        for i, (s, t) in enumerate(sides):
            rows = slice(i * size, (i + 1) * size)
            around = part(context, rows, term.reduction.over == "logits")
            pieces.append(checkpoint(numerators, s, t, around, use_reentrant=False))
        return torch.cat(pieces)

    def _weights(self, plain: Seen) -> Tensor | None:
        if self.aggregation is None or not plain.teachers:
            return None
        return self.aggregation.weights(said(plain), self._module("aggregation")).detach()

    def _weighed(
        self,
        bound: BoundTerm,
        rows: Tensor,
        weights_KP: Tensor,
        context: Context,
        apart: Apart | None = None,
    ) -> Tensor:
        if bound.term.every_teacher:
            return rows
        own_P = weights_KP[bound.teacher]
        if bound.term.reduction.over == "logits" or context.sample_P is None:
            return rows * (own_P[apart.rows.student_A] if apart and apart.rows else own_P)
        # Token-level weights become their mean over each sequence.
        samples = rows.shape[0]
        total = own_P.new_zeros(samples).index_add(0, context.sample_P, own_P)
        count = own_P.new_zeros(samples).index_add(0, context.sample_P, torch.ones_like(own_P))
        return rows * total / count.clamp(min=1)

    @staticmethod
    def _key(bound: BoundTerm, position: int, side: str, layer: int) -> str:
        transform = bound.transforms[position]
        where = f"_{layer}" if transform.owner == "layer" else ""
        if transform.group:
            return _safe(f"{transform.group}_{side}_{bound.teacher}{where}")
        return _safe(f"{bound.name}_{position}_{side}{where}")


def _match_key(bound: BoundTerm) -> str:
    group = bound.term.match.group
    return _safe(f"{group}_{bound.teacher}" if group else f"{bound.name}_match")


def _by_rows(bound: BoundTerm) -> bool:
    """Whether transforms act on rows of logits, so that they can wait for their piece of them."""
    return bound.term.extract.kind in ("logits", "states")


def _of_logits(bound: BoundTerm) -> bool:
    return bound.term.extract.kind in ("logits", "head", "states")


def _too_large(values: Tensor, bound: BoundTerm) -> bool:
    by_rows = splits(bound) and bound.term.reduction.over in ("logits", "query", "pair")
    return by_rows and len(values) * _row_size(values, bound) > PIECE


def _row_size(values: Tensor, bound: BoundTerm) -> int:
    """Return how many numbers a row has where it is widest: states become logits."""
    heads = [shape.head[1] for sides in bound.sides for shape in sides if shape.head]
    return max(values[:1].numel(), *heads) if heads else values[:1].numel()


def _safe(name: str) -> str:
    return name.replace("/", "_").replace(".", "_").replace("#", "_")
