"""One step's forward passes: student and teachers on the batch, and the views operators make."""

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolchain.data.batching import Batch, collate
from toolchain.data.masking import IGNORED
from toolchain.distill.capture import Captures, Recorder
from toolchain.distill.context import Context, Moment
from toolchain.distill.distiller import Distiller
from toolchain.distill.extract import Request
from toolchain.distill.generation import prompts_of, sampled, with_answers
from toolchain.distill.mixing import Mixed, Speaker
from toolchain.distill.operators import Operator, View
from toolchain.distill.operators.operator import Patches
from toolchain.distill.positions import Positions, aligned, positions_of
from toolchain.distill.ranks import most, summed
from toolchain.distill.seen import Apart, Seen
from toolchain.distill.surgery import Operation
from toolchain.distill.teachers import Teacher
from toolchain.models.vocabulary import Vocabulary
from toolchain.spec import LANGUAGE, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

__all__ = ["StepPasses"]


class StepPasses:
    """Runs the models of a stage; operators ask it for further passes.

    `clock` names what the time of a pass is booked under. Batches hold the teachers' token ids;
    a student with a `vocabulary` of its own reads its own ids for them. A teacher with rows of its
    own, in other tokens, reads those of the same numbers. `surgery` says which of the student's
    blocks stand, `memories` what operators remember, by their keys. With `abreast` all ranks run
    the student equally often; it runs under `autocast`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        recorder: Recorder,
        spec: ModelSpec,
        teachers: Sequence[Teacher],
        distiller: Distiller,
        operators: Sequence[Operator],
        clock: "Callable[[str], AbstractContextManager[None]]",
        vocabulary: Vocabulary | None = None,
        surgery: Operation | None = None,
        memories: Mapping[str, nn.Module] | None = None,
        *,
        abreast: bool = False,
        autocast: "Callable[[], AbstractContextManager[None]]" = nullcontext,
    ) -> None:
        self._model, self._recorder, self._spec = model, recorder, spec
        self._teachers, self._distiller = tuple(teachers), distiller
        self._operators, self._clock, self._autocast = tuple(operators), clock, autocast
        self._moment, self._surgery, self._abreast = Moment(), surgery, abreast
        self._memories = memories or {}
        self._read: dict[int, tuple[tuple[int, ...], int, Batch]] = {}
        self._ids: tuple[Tensor, Tensor] | None = None
        if vocabulary:
            own_V = torch.from_numpy(vocabulary.new_of_old)
            self._ids = (own_V, torch.from_numpy(vocabulary.kept))

    @property
    def student_spec(self) -> ModelSpec:
        """The student's shape."""
        return self._spec

    @property
    def teacher_specs(self) -> tuple[ModelSpec, ...]:
        """The teachers' shapes."""
        return tuple(teacher.spec for teacher in self._teachers)

    def student(self, batch: Batch, patches: Patches) -> Captures:
        """Run the student, with gradient."""
        rows = positions_of(self._spec.task, batch.labels)
        inputs = {**batch.inputs, "input_ids": self._own_ids(batch.inputs["input_ids"])}
        with self._clock("student"), self._recorder.patched(patches):
            with self._autocast():
                logits = self._recorder.run(self._model, inputs)
            return self._recorder.take(logits, rows.rows)

    def again(self, batch: Batch) -> Tensor:
        """Return the student's logits (P, C) in evaluation mode, as it stands now."""
        self._model.eval()
        with torch.no_grad():
            after = self.student(batch, {}).tensor(Request("logits"))
        self._model.train()
        return after

    def teacher(self, index: int, batch: Batch, patches: Patches) -> Captures:
        """Run one teacher, without gradient."""
        read = self._read_by(index, batch)
        with self._clock("teacher"):
            return self._teachers[index].captures(read, patches)

    def _read_by(self, index: int, batch: Batch) -> Batch:
        """Return the batch as a teacher reads it, made once a step where its tokens are its own."""
        rows = self._teachers[index].rows
        if rows is None:
            return batch
        known = self._read.get(index)
        if known is None or known[:2] != (batch.rows, self._moment.step):
            with self._clock("data"):
                step = self._moment.step
                own = collate(rows, batch.rows, step=step).to(batch.labels.device)
            known = self._read[index] = (batch.rows, step, own)
        return known[2]

    def loss(self, plain: View, reader: str) -> Tensor:
        """Return the loss of the terms that read the view `reader`, taken on the plain pass.

        Added up over ranks it is the mean over the global batch.
        """
        known = self._seen(plain)
        counts = summed(self.denominators({reader: known}))
        values = self._distiller({"plain": known, reader: known}, counts)
        return self._distiller.total(values, self._moment)

    def generate(self, batch: Batch, *, tau: float, seed: int, teacher: float = 0.0) -> Batch:
        """Return the batch with answers sampled from the student, no row longer than the longest.

        Each token is drawn from the teacher with the probability `teacher`. Rows that ask for no
        answer stay as they are. Lengths are those of the global batch.
        """
        asked = (batch.labels != IGNORED).any(-1).tolist()
        prompts = prompts_of(batch)
        rows = [row for row, wanted in enumerate(asked) if wanted]
        chosen = [self._own_ids(prompts[row]) for row in rows]
        lengths = [len(prompt) for prompt in chosen]
        ends = most(
            {
                "width": batch.labels.shape[1],
                "longest": max(lengths, default=-math.inf),
                "shortest": -min(lengths, default=math.inf),
            }
        )
        if ends["longest"] < 0:
            return batch
        width = int(ends["width"])
        # Prompts are padded to the longest, and positions are counted from there.
        longest = int(ends["longest"])
        room = int(min(width + ends["shortest"], self._spec.max_tokens - longest))
        abreast, mixed = self._abreast, None
        if teacher:
            (other,) = self._teachers
            assert isinstance(other, Speaker), "the plan refuses that"
            # A rank without prompts has the teacher read some text with the others.
            texts = chosen or [batch.labels.new_zeros(1)]
            mixed = Mixed(other, teacher, texts, longest)
            abreast |= other.abreast
        with self._clock("generation"):
            said = sampled(
                self._model,
                chosen,
                tau=tau,
                seed=seed,
                max_new=room,
                numbers=[batch.rows[row] for row in rows],
                mixed=mixed,
                width=longest,
                abreast=abreast,
            )
        if not rows:
            return batch
        made = iter(said)
        answers = [
            self._teacher_ids(next(made))[: width - len(ids)] if wanted else ids[:0]
            for ids, wanted in zip(prompts, asked, strict=True)
        ]
        return with_answers(batch, prompts, answers)

    def memory(self, key: str) -> nn.Module:
        """Return what the operator called `key` remembers."""
        return self._memories[key]

    def prepared(self, batch: Batch, moment: Moment) -> Batch:
        """Return the batch the step trains on."""
        for operator in self._operators:
            batch = operator.prepare(batch, self, moment)
        return batch

    def seen(self, batch: Batch, moment: Moment) -> dict[str, Seen]:
        """Run everything the step needs: the plain view first, then those of operators."""
        self._moment = moment
        read = {bound.term.view for bound in self._distiller.terms}
        asked = range(len(self._teachers)) if self._asks_plainly(read) else ()
        known = tuple(self.teacher(i, batch, {}) for i in asked)
        plain = View(batch, self.student(batch, {}), known)
        views: dict[str, View | None] = {"plain": plain}
        for operator in self._operators:
            # A method may need its view in one stage and not in another.
            if operator.key in read:
                views[operator.key] = operator.view(plain, self, moment)
        return {name: self._seen(view) for name, view in views.items() if view is not None}

    def _asks_plainly(self, read: Collection[str]) -> bool:
        """Whether anything reads what the teachers know of the batch itself."""
        apart = {op.key for op in self._operators if op.asks_teachers} & set(read)
        return not apart or any(
            bound.requests("teacher")
            for bound in self._distiller.terms
            if bound.term.view not in apart
        )

    def denominators(self, seen: Mapping[str, Seen]) -> dict[str, float]:
        """Return each term's number of positions in this micro-batch."""
        found = {}
        for bound in self._distiller.terms:
            if bound.term.view in seen:
                context = seen[bound.term.view].around(bound)
                found[bound.name] = bound.term.reduction.denominator(context)
                if bound.across and bound.term.reduction.over == "sample":
                    # Each sequence stands beside those of all ranks.
                    own = float(context.mask_BN.shape[0])
                    found[bound.name] = own * summed({"": own})[""]
        return found

    def _seen(self, view: View) -> Seen:
        rows = positions_of(self._spec.task, view.batch.labels)
        language = self._spec.task in LANGUAGE
        context = Context(
            mask_BN=view.batch.mask_BN,
            labels_P=self._own_ids(rows.labels_P) if language else rows.labels_P,
            sample_P=rows.sample_P,
            moment=self._moment,
            causal=self._spec.causal,
            kept_K=None if self._ids is None else self._ids[1].to(rows.labels_P.device),
            standing=self._surgery.standing if self._surgery else None,
            places_PN=view.batch.mask_BN.bool().repeat_interleave(2, 0)
            if self._spec.task == "qa"
            else None,
        )
        apart = {
            index: self._apart(index, view.batch, rows, context)
            for index, _ in enumerate(view.teachers)
            if self._teachers[index].rows is not None
        }
        return Seen(view.student, view.teachers, context, apart)

    def _apart(self, index: int, batch: Batch, rows: Positions, context: Context) -> Apart:
        """Return how a teacher with tokens of its own stands beside the student."""
        spec, read = self._teachers[index].spec, self._read_by(index, batch)
        theirs = positions_of(spec.task, read.labels)
        beside = aligned(rows, theirs, len(batch.rows))
        shared = context
        if beside is not None:
            assert context.labels_P is not None
            assert context.sample_P is not None
            shared = replace(
                context,
                labels_P=context.labels_P[beside.student_A],
                sample_P=context.sample_P[beside.student_A],
            )
        own = Context(
            mask_BN=read.mask_BN,
            sample_P=theirs.sample_P,
            moment=self._moment,
            causal=spec.causal,
        )
        return Apart(own, shared, beside)

    def _own_ids(self, ids: Tensor) -> Tensor:
        return ids if self._ids is None else self._ids[0].to(ids.device)[ids]

    def _teacher_ids(self, ids: Tensor) -> Tensor:
        return ids if self._ids is None else self._ids[1].to(ids.device)[ids]
