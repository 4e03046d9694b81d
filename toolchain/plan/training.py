"""The training of a plan: stages with their terms bound, fine-tuning, the fair baseline."""

import importlib.util
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from toolchain import hardware
from toolchain.data.sources import TaskData
from toolchain.distill.aggregation import Mean
from toolchain.distill.compose import Composition, compose
from toolchain.distill.operators import TeacherGenerate
from toolchain.distill.records import PLAIN, Parts
from toolchain.distill.shapes import Unfit
from toolchain.distill.stages import Stage
from toolchain.distill.surgery import Surgery
from toolchain.distill.term import BoundTerm, Term, bind
from toolchain.distill.tokens import require_same_tokens
from toolchain.errors import UsageError
from toolchain.models.checkpoint import Checkpoint
from toolchain.models.family import families
from toolchain.plan.embedding import learnable
from toolchain.plan.task import language_task, ready, rows_to_train
from toolchain.plan.types import StagePlan
from toolchain.recipe import Recipe, StageTraining
from toolchain.spec import SEQUENCE, ModelSpec

__all__ = ["baseline_run", "bound_to_all", "finetuning", "precision", "stage_plans"]


def stage_plans(
    recipe: Recipe,
    composition: Composition,
    student: ModelSpec,
    teachers: Sequence[ModelSpec],
    task: TaskData,
    raw: tuple[str, ...],
    reasons: list[str],
    *,
    lm_heads: bool,
    unlabelled: int = 0,
) -> tuple[StagePlan, ...]:
    """Return the stages in order, each term bound to the student and every teacher.

    `lm_heads` says whether every teacher has the language head a general stage may read,
    `unlabelled` how many texts join the task's rows.

    Raises UsageError for what the models, the data or the number of teachers do not allow.
    """
    if len(teachers) < composition.needs_teachers:
        raise UsageError(
            f"method {composition.text!r} needs {composition.needs_teachers} teachers, "
            f"the recipe names {len(teachers)}",
            "name the others: teachers=[DIR, ...]",
        )
    writes = any(isinstance(op, TeacherGenerate) for op in composition.operators)
    if writes and (task.task != "causal_lm" or task.train.texts_b is None):
        raise UsageError(
            f"method {composition.text!r} has the teacher answer prompts, but "
            f"{task.train.file} holds none",
            "give data with a prompt and an answer per row (data.columns)",
        )
    wanted = dict(composition.stages)
    if student.task == "embed":
        wanted = learnable(composition, reasons)
    if "general" in wanted and not raw:
        del wanted["general"]
        reasons.append("stage general is left out: it needs raw text (data.raw)")
    if raw and "general" not in wanted:
        raise UsageError(
            f"data.raw is given, but method {composition.text!r} has no general stage to read it",
            "drop data.raw, or use a method with a general stage such as tinybert, or mobilebert "
            "with the option stage=general",
        )
    if "pred" not in wanted:
        follows = "similarities" if student.task == "embed" else "finetune"
        wanted["pred"] = compose(follows, {}).stages["pred"]
        said = "embeddings: one on them" if student.task == "embed" else "head: a stage on labels"
        reasons.append(f"method {composition.text!r} trains no {said} follows")
    for name in recipe.stages:
        if name not in wanted:
            raise UsageError(
                f"stages.{name} is set, but the method {composition.text!r} runs "
                f"{', '.join(wanted)}"
            )
    plans = []
    for name, terms in wanted.items():
        own_student, own_teachers = student, tuple(teachers)
        general = name == "general"
        if general and any(t.extract.kind in ("logits", "labels") for t in terms):
            _check_lm_heads(composition, terms, lm_heads)
            language = language_task(student)
            own_student = replace(student, task=language, num_labels=0)
            own_teachers = tuple(replace(t, task=language, num_labels=0) for t in teachers)
        stage = _stage(
            recipe,
            name,
            bound_to_all(terms, own_student, own_teachers),
            recipe.stages.get(name, StageTraining()),
            rows=len(raw) if general else _rows(recipe, task, student) + unlabelled,
            raw=general,
            # Stages that train predictions are judged on dev; the others end where they end.
            keep_best=(not general and any(t.extract.kind == "logits" for t in terms))
            or name == "pred",
            parts=_parts(recipe, composition, name, terms, own_student, own_teachers),
        )
        reasons += dict.fromkeys(note for bound in stage.terms for note in bound.notes)
        extended = not general and (recipe.data.augment is not None or unlabelled > 0)
        plans.append(replace(stage, task=own_student.task, extended=extended))
    return tuple(plans)


def _rows(recipe: Recipe, task: TaskData, student: ModelSpec) -> int:
    """Return the rows a student sees of the task in an epoch."""
    copies = recipe.data.augment.copies if recipe.data.augment else 0
    return (1 + copies) * rows_to_train(recipe, task, student)


def _check_lm_heads(composition: Composition, terms: Iterable[Term], lm_heads: bool) -> None:
    reading = [t.name for t in terms if t.extract.kind == "logits"]
    if reading and not lm_heads:
        raise UsageError(
            f"method {composition.text!r}: term {reading[0]!r} reads the teacher's language head "
            "in stage general, and the teacher has none",
            "give a teacher saved with its language head, drop data.raw, or use a method such as "
            "minilm_v2 that reads none",
        )


def bound_to_all(
    terms: Sequence[Term], student: ModelSpec, teachers: Sequence[ModelSpec]
) -> tuple[BoundTerm, ...]:
    """Bind each term to every teacher; gold labels once. Raises UsageError."""
    for term in terms:
        asked = [(spec, term.extract) for spec in (student, *teachers)]
        asked += [(spec, term.guide) for spec in teachers if term.guide]
        for spec, extract in asked:
            reason = families.get(spec.family).unsupported.get(extract.kind)
            if reason:
                raise UsageError(
                    f"term {term.name!r} reads {extract.kind}, which a {spec.family} model "
                    f"does not give: {reason}",
                    "use terms on q, k, v, hidden states or predictions",
                )
    return tuple(
        bind(term, student, teacher, index)
        for term in terms
        for index, teacher in enumerate(teachers)
        if index == 0 or not term.extract.is_gold
    )


def _parts(
    recipe: Recipe,
    composition: Composition,
    stage: Stage,
    terms: Iterable[Term],
    student: ModelSpec,
    teachers: Sequence[ModelSpec],
) -> Parts:
    """Return what the stage has beside terms. Raises UsageError where a model does not fit it."""
    aggregation, surgery = composition.aggregation, composition.surgery
    operators = tuple(op for op in composition.operators if stage in op.stages)
    surgery = surgery if surgery and stage in surgery.stages else None
    aggregation = aggregation if aggregation and stage in aggregation.stages else None
    if aggregation and len(teachers) >= aggregation.needs_teachers:
        try:
            aggregation = aggregation.resolve(student, teachers)
        except Unfit as unfit:
            raise UsageError(f"{aggregation.key}: {unfit.problem}", unfit.way_out) from None
    else:
        aggregation = Mean() if len(teachers) > 1 else None
    if aggregation and aggregation.reads_teachers and student.task not in SEQUENCE:
        for teacher in teachers:
            try:
                require_same_tokens(
                    "it weighs the teachers token by token",
                    "use teachers with the student's tokenizer, or a method with equal weights",
                    student,
                    teacher,
                )
            except Unfit as unfit:
                raise UsageError(f"{aggregation.key}: {unfit.problem}", unfit.way_out) from None
    for part in (*operators, *((surgery,) if surgery else ())):
        try:
            for teacher in teachers:
                part.check(student, teacher)
        except Unfit as unfit:
            raise UsageError(f"{part.key}: {unfit.problem}", unfit.way_out) from None
    for part in (*operators, *((surgery,) if surgery else ())):
        if part.one_teacher and len(teachers) > 1:
            raise UsageError(
                f"{part.key} works with one teacher, the recipe names {len(teachers)}", "name one"
            )
    if surgery:
        _check_surgery(surgery, terms)
    return Parts(
        aggregation=aggregation,
        operators=operators,
        surgery=surgery,
        balance=recipe.balance == "initial",
    )


def _check_surgery(surgery: Surgery, terms: Iterable[Term]) -> None:
    for term in terms:
        if term.extract.kind in surgery.hides:
            raise UsageError(
                f"{surgery.key} and term {term.name!r} do not go together: the student's "
                f"{term.extract.kind} cannot be read while its modules are replaced",
                "use terms on hidden states or predictions",
            )


def _stage(
    recipe: Recipe,
    name: str,
    terms: tuple[BoundTerm, ...],
    own: StageTraining,
    *,
    rows: int,
    raw: bool = False,
    keep_best: bool = True,
    parts: Parts = PLAIN,
) -> StagePlan:
    train = recipe.train
    batch = own.batch_size or train.batch_size
    epochs = own.epochs or train.epochs
    steps = max(1, math.ceil(epochs * math.ceil(rows / batch)))
    return StagePlan(
        name=name,
        terms=terms,
        steps=min(steps, recipe.max_steps or steps),
        batch_size=batch,
        lr=own.lr or train.lr,
        warmup=train.warmup if own.warmup is None else own.warmup,
        raw=raw,
        keep_best=keep_best,
        parts=parts,
    )


def _label_terms(student: ModelSpec, teacher: ModelSpec) -> tuple[BoundTerm, ...]:
    terms = compose("finetune", {}).stages["pred"]
    return tuple(bind(term, student, teacher) for term in terms)


def finetuning(
    recipe: Recipe,
    teacher: Checkpoint,
    spec: ModelSpec,
    task: TaskData,
    reasons: list[str],
) -> StagePlan | None:
    """Return how a bare encoder is fine-tuned first; None for a teacher with a head."""
    asked = recipe.finetune.model_dump(exclude_none=True)
    if ready(teacher, task):
        if asked:
            raise UsageError(
                f"finetune.{next(iter(asked))} is set, but the teacher already has a head",
                "drop it, or give the bare encoder as the teacher",
            )
        return None
    reasons.append("the teacher is a bare encoder: it is fine-tuned on the task first")
    stage = _stage(
        recipe,
        "finetune",
        _label_terms(spec, spec),
        recipe.finetune,
        rows=rows_to_train(recipe, task, spec),
    )
    return replace(stage, task=spec.task)


def baseline_run(
    recipe: Recipe, stages: tuple[StagePlan, ...], student: ModelSpec, teacher: ModelSpec
) -> StagePlan:
    """Return the fair baseline: the same number of steps on labels alone."""
    last: StagePlan = stages[-1]
    surgery = last.parts.surgery
    return replace(
        last,
        name="baseline",
        # Labels of further rows are a guess, which nothing but labels could correct.
        extended=False,
        terms=_label_terms(student, teacher),
        # Where surgery decides the shape, the baseline must end as small as the student.
        parts=Parts(surgery=surgery) if surgery and surgery.reshapes else PLAIN,
        steps=min(sum(s.steps for s in stages), recipe.max_steps or 1 << 62),
    )


def precision(recipe: Recipe, reasons: list[str]) -> bool:
    """Return whether to train in bf16. Raises UsageError where that was asked in vain."""
    if recipe.train.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UsageError(
            "train.tensorboard is set, but tensorboard is not installed",
            "pip install 'toolchain[tensorboard]'",
        )
    reason = hardware.bf16_reason()
    if recipe.train.precision == "fp32":
        return False
    if recipe.train.precision == "bf16" and reason is None:
        raise UsageError(
            "train.precision is bf16, but neither the CPU nor a GPU here computes in it",
            "use auto or fp32",
        )
    reasons.append(
        f"training in bf16, losses in fp32: {reason}"
        if reason
        else "training in fp32: no bf16 here"
    )
    return reason is not None
