"""The step that tells: everything the run found, gathered into one report."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from toolchain.bench.compare import ratio
from toolchain.measurement import Verdict
from toolchain.plan import Plan
from toolchain.report import report as told
from toolchain.report.report import Report
from toolchain.rundir import Done
from toolchain.steps.benchmark import Timing
from toolchain.steps.variants import Variant
from toolchain.steps.verify import Proof
from toolchain.verify.choice import Shipping

__all__ = ["Findings", "gather"]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All results of a run; `texts` say what became of the tokenizer where a graph was to read."""

    plan: Plan
    command: str
    variants: Sequence[Variant]
    proof: Proof
    timing: Timing
    verdicts: Sequence[Verdict]
    shipping: Mapping[str, Shipping]
    steps: Sequence[Done]
    trained: Mapping[str, Mapping[str, Any]]
    texts: Sequence[str] = ()


def gather(found: Findings) -> Report:
    """Return the report of a run. `trained` maps steps that trained to their facts."""
    plan, task = found.plan, found.plan.task
    rows = {"train": len(task.train), "dev": len(task.dev)}
    rows["test"] = len(task.test) if task.test else None  # type: ignore[assignment]
    return Report(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=found.command,
        recipe_digest=plan.recipe_digest,
        task=told.Task(name=task.name, metric=plan.recipe.metric, rows=rows),
        warnings=(*found.timing.warnings, *_shipping_warnings(found)),
        environment=found.timing.environment,
        models=tuple(_model(variant, found) for variant in found.variants),
        gates=tuple(found.verdicts),
        steps=tuple(_step(done) for done in found.steps),
        shipped={name: _shipped(s, found.variants) for name, s in found.shipping.items()},
        ratios=tuple(_ratios(found)),
        curves=tuple(_curves(found.trained)),
        plan=told.Plan(
            student=replace(plan.student, **found.trained["distill"]["sizes"]),
            teacher=plan.teacher_spec,
            init=plan.init,
            layer_map=() if plan.source else plan.copied.pairs,
            method=plan.recipe.method,
            terms=tuple(f"{s.name}: {bound}" for s in plan.stages for bound in s.terms),
            reasons=(*plan.reasons, *found.texts),
        ),
        license=plan.teacher.licence or None,
        base_model=_base_model(plan),
    )


def _base_model(plan: Plan) -> str:
    """Return the hub id, or the name of the teacher's folder: a path says nothing elsewhere."""
    source = Path(plan.teacher.source)
    return source.resolve().name if source.exists() else plan.teacher.source


def _model(variant: Variant, found: Findings) -> told.Model:
    timed = [m for m in found.timing.measurements if m.model == variant.name]
    footprint = next((f for f in found.timing.footprints if f.model == variant.name), None)
    return told.Model(
        name=variant.name,
        role=variant.role,
        format=variant.format,
        precision=variant.precision,
        path=variant.published,
        sha256=variant.digest,
        parameters=variant.parameters,
        file_bytes=variant.bytes,
        peak_bytes=footprint.peak_bytes if footprint else None,
        cold_start_ms=footprint.cold_start_ms if footprint else None,
        metric=found.proof.metrics.get(variant.name),
        parity=found.proof.parities.get(variant.name),
        latency=tuple(told.Latency.of(m) for m in timed if not m.load.new_tokens),
        decoding=tuple(told.Decoding.of(m) for m in timed if m.load.new_tokens),
    )


def _step(done: Done) -> told.Step:
    return told.Step(
        name=done.name,
        seconds=done.seconds,
        inputs=done.inputs,
        outputs={done.name: done.artifact.digest},
        skipped=done.skipped,
    )


def _shipped(shipping: Shipping, variants: Sequence[Variant]) -> told.Shipped | None:
    chosen = next((v for v in variants if v.name == shipping.model), None)
    if chosen is None:
        return None
    return told.Shipped(model=chosen.name, precision=chosen.precision, path=chosen.published)


def _ratios(found: Findings) -> list[told.Ratio]:
    """Every student file against every teacher, and each variant against its parent."""
    timed = [v for v in found.variants if found.timing.at_task(v.name)]
    pairs = [
        (slow, fast)
        for fast in timed
        for slow in timed
        if fast.role == "student" and (slow.role == "teacher" or slow.name == fast.parent)
    ]
    ratios = []
    for slow, fast in pairs:
        for one in found.timing.measurements:
            if one.model != slow.name or one.load.new_tokens:
                continue
            other = next(
                m for m in found.timing.measurements if m.model == fast.name and m.load == one.load
            )
            r = ratio(one, other)
            ratios.append(
                told.Ratio(
                    slow=slow.name,
                    fast=fast.name,
                    tokens=one.load.tokens,
                    median=r.median,
                    low=r.low,
                    high=r.high,
                    rounds=r.rounds,
                )
            )
    return ratios


def _curves(trained: Mapping[str, Mapping[str, Any]]) -> list[told.Curve]:
    curves = []
    for step, facts in trained.items():
        for stage in facts["stages"]:
            run, name = _place(step, stage["stage"])
            points, evals = stage["points"], stage["evals"]
            names = points[0]["parts"] if points else {}
            curves.append(
                told.Curve(
                    run=run,
                    stage=name,
                    points=told.Points(
                        step=tuple(p["step"] for p in points),
                        loss=tuple(p["loss"] for p in points),
                        lr=tuple(p["lr"] for p in points),
                        parts={name: tuple(p["parts"][name] for p in points) for name in names},
                    ),
                    evals=told.Evals(
                        step=tuple(e["step"] for e in evals),
                        metric=tuple(e["metric"] for e in evals),
                    ),
                    samples_per_s=stage["samples_per_s"],
                    shares=stage["shares"],
                )
            )
    return curves


def _place(
    step: str, stage: str
) -> tuple[Literal["finetune", "assistant", "distill", "baseline"], str]:
    """Return the run a training step belongs to, and the name of its stage there."""
    match step.split("-"):
        case ["distill" | "aware"]:
            return "distill", stage
        case ["baseline"]:
            return "baseline", stage
        case ["assistant", number]:
            return "assistant", f"{number}, {stage}"
        case ["teacher"]:
            return "finetune", stage
        case _:
            return "finetune", step


def _shipping_warnings(found: Findings) -> list[str]:
    warnings = []
    for name, shipping in found.shipping.items():
        for model, why in shipping.rejected.items():
            warnings.append(f"{model} is not shipped to {name}: {why}")
    # Two steps with one digest would mean that a step did nothing; what is only to be trained may
    # well be a copy of its teacher.
    starts = ("student", "-start")
    digests = [d.artifact.digest for d in found.steps if not d.name.endswith(starts)]
    assert all(a != b for a, b in pairwise(digests)), "a step wrote its parent again"
    return warnings
