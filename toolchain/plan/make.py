"""Recipe to Plan: every name, fit and requirement is checked here, before any weight is loaded.

Nothing after it may refuse for a cause that could have been seen from configuration, headers and
data.
"""

from dataclasses import replace
from pathlib import Path

from toolchain import estimate, hardware, metrics
from toolchain.data.sources import load_raw, load_task
from toolchain.distill.compose import Composition, compose
from toolchain.distill.written import read_terms
from toolchain.errors import UsageError
from toolchain.estimate import Estimate
from toolchain.models.checkpoint import inspect
from toolchain.models.initialise import Init, copied_layers
from toolchain.models.vocabulary import check_shareable
from toolchain.plan import embedding
from toolchain.plan.augment import augment_plan
from toolchain.plan.aware import with_aware
from toolchain.plan.cached import streaming, with_caches
from toolchain.plan.chain import Chain, assistants_of, source_of, with_shapes
from toolchain.plan.formats import check_expressible, with_formats
from toolchain.plan.needs import (
    budgeted,
    check_resources,
    estimated,
    token_lengths,
    training_of,
)
from toolchain.plan.precision import with_precisions
from toolchain.plan.sharding import check_sharding
from toolchain.plan.student import (
    check_names,
    default_method,
    initialisation,
    resolved,
    student_spec,
)
from toolchain.plan.task import check_pack, for_task
from toolchain.plan.teachers import check_alike, further_teachers, trained_together
from toolchain.plan.tokenizers import check_inside, one_text_per_row, with_tokenizers
from toolchain.plan.training import baseline_run, precision, stage_plans
from toolchain.plan.types import Plan
from toolchain.plan.unlabelled import check_answerable, unlabelled_rows
from toolchain.recipe import Recipe
from toolchain.target import Target, load_target

__all__ = ["make_plan", "probed"]


def make_plan(recipe: Recipe, output: Path) -> Plan:
    """Resolve a recipe. Raises UsageError (2) for what cannot be done, ResourceError (5) for what
    would not fit; nothing is written.
    """
    reasons: list[str] = []
    targets = tuple(load_target(name) for name in recipe.targets)
    asked = recipe
    recipe = with_precisions(with_formats(recipe, targets), targets)
    _check_targets(recipe, targets)
    composition = _asked_for(recipe)
    if composition is None and recipe.method_options:
        raise UsageError("method_options needs a method", "name the method they belong to")
    found = [inspect(source) for source in (recipe.teacher, *recipe.teachers)]
    start = inspect(recipe.student.path, "student") if recipe.student.path else None
    found = list(with_tokenizers([*found, start] if start else found))
    start = found.pop() if start else None
    teachers = tuple(found)
    check_alike(teachers)
    teacher = teachers[0]
    task = load_task(
        recipe.data.path,
        columns=recipe.data.columns,
        teacher_labels=next((t.labels for t in teachers if t.has_head), None),
        task=embedding.asked_task(recipe, teacher),
    )
    recipe = check_expressible(asked, recipe, task.task)
    reasons += (*teacher.notes, *task.notes)
    check_inside(recipe, task)
    check_pack(recipe, task)
    recipe = recipe.model_copy(
        update={"metric": metrics.resolve(recipe.metric, task.task, task.labels)}
    )
    specs = tuple(for_task(t, task) for t in teachers)
    recipe = embedding.prepared(recipe, task, teachers, reasons)
    teacher_spec = specs[0]
    augmenting = augment_plan(recipe, teacher, task, reasons)
    unlabelled = unlabelled_rows(recipe, task, reasons)
    raw, raw_digest = load_raw(recipe.data.raw) if recipe.data.raw else ((), "")
    if recipe.student.vocab is not None:
        check_shareable(teacher.root)
    student = student_spec(recipe, start, teacher_spec, composition, reasons)
    embedding.check_metric(recipe, task, student, teacher_spec)
    if start:
        check_names(start, task)
    recipe = one_text_per_row(recipe, task, student, teachers, reasons)
    if composition is None:
        composition = default_method(student, teacher_spec, reasons)
        recipe = recipe.model_copy(update={"method": composition.text})
    reasons += composition.notes
    chain = Chain(
        recipe=recipe,
        composition=composition,
        teachers=specs,
        task=task,
        raw=raw,
        lm_heads=all(t.lm_head for t in teachers),
        unlabelled=len(unlabelled) if unlabelled else 0,
    )
    assistants = assistants_of(chain, student, reasons)
    before = tuple(assistant.spec for assistant in assistants)
    models = (teacher_spec, *before)
    source = source_of(student, models)
    init: Init = (
        "given" if start else initialisation(recipe, student, models[source], composition, reasons)
    )
    stages = stage_plans(
        recipe,
        composition,
        student,
        chain.guides(before),
        task,
        raw,
        reasons,
        lm_heads=chain.lm_heads and (composition.all_guides or not before),
        unlabelled=chain.unlabelled,
    )
    finetune, others = further_teachers(recipe, teachers, task, reasons)
    bf16 = precision(recipe, reasons)
    max_tokens, mean_tokens = token_lengths(recipe, student, specs, task)
    cores = hardware.cores()
    plan = Plan(
        recipe=resolved(with_shapes(recipe, assistants), student, init),
        teacher=teacher,
        start=start,
        task=task,
        raw=raw,
        raw_digest=raw_digest,
        teacher_spec=teacher_spec,
        student=student,
        init=init,
        copied=copied_layers(init, student.layers, models[source].layers),
        finetune=finetune,
        stages=stages,
        baseline=baseline_run(recipe, stages, student, teacher_spec) if recipe.baseline else None,
        targets=targets,
        bf16=bf16,
        train_threads=recipe.threads or cores,
        bench_threads=recipe.threads or 1,
        max_tokens=max_tokens,
        mean_tokens=mean_tokens,
        estimate=Estimate(memory_bytes=0, disk_bytes=0),
        others=others,
        together=trained_together(composition, teachers, specs, task, reasons),
        assistants=assistants,
        all_guides=composition.all_guides,
        source=source,
        augment=augmenting,
        unlabelled=unlabelled,
        reasons=tuple(reasons),
    )
    own = [stage for assistant in assistants for stage in assistant.stages]
    check_sharding(plan.placement, (*own, *stages))
    plan = with_caches(plan)
    budget = budgeted(plan)
    plan = streaming(replace(plan, budget=budget, estimate=estimated(plan, budget)))
    # Once more for what was chosen.
    check_sharding(plan.placement, (*own, *stages))
    check_answerable(plan)
    plan = with_aware(plan)
    check_resources(plan, output)
    return plan


def _asked_for(recipe: Recipe) -> Composition | None:
    """Return what method and terms ask for; None leaves the choice to the plan."""
    written = read_terms(recipe.terms)
    if recipe.method != "auto":
        return compose(recipe.method, recipe.method_options, written)
    return compose("", recipe.method_options, written) if written else None


def probed(plan: Plan) -> Plan:
    """Return the plan with its training time estimated from this machine's own speed."""
    stages = [
        (s.steps, s.batch_size, guides if s.needs_teacher else (), spec)
        for guides, spec, trained in training_of(plan)
        for s in trained
    ]
    rate = hardware.flops_per_s(bf16=plan.bf16, threads=plan.train_threads)
    seconds = estimate.seconds(stages, tokens=plan.mean_tokens, flops_per_s=rate)
    plan = replace(plan, estimate=replace(plan.estimate, seconds=seconds))
    if plan.aware is None:
        return plan
    last = plan.stages[-1]
    guides = next(guides for guides, _, trained in training_of(plan) if trained is plan.stages)
    seconds = estimate.seconds(
        [(plan.aware.steps, last.batch_size, guides if last.needs_teacher else (), plan.student)],
        tokens=plan.mean_tokens,
        flops_per_s=hardware.flops_per_s(bf16=False, threads=plan.train_threads),
    )
    return replace(plan, aware=replace(plan.aware, seconds=seconds))


def _check_targets(recipe: Recipe, targets: tuple[Target, ...]) -> None:
    measured = [target.name for target in targets if target.fidelity == "measured"]
    if recipe.gates.latency_ms is not None and not measured:
        raise UsageError(
            f"a latency of {recipe.gates.latency_ms:g} ms was asked for, but nothing can be "
            f"measured on {', '.join(target.name for target in targets)} from here",
            "add --target host to hold the limit against this machine, or drop --latency",
        )
    for target in targets:
        if not set(target.accepts.precisions) & set(recipe.precisions):
            raise UsageError(
                f"target {target.name} takes {', '.join(target.accepts.precisions)}, the recipe "
                f"makes {', '.join(recipe.precisions)}"
            )
