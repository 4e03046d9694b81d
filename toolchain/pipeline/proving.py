"""What is true of a run's files: verified, and once more where the student was trained for int8."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from toolchain.artifact import digest_of
from toolchain.measurement import Metric
from toolchain.pipeline.lineup import AWARE, Lineup
from toolchain.plan.aware import INT8
from toolchain.steps.export import export, quantize
from toolchain.steps.variants import Variant
from toolchain.steps.verify import Proof, read_proof, verify
from toolchain.teaching import Teaching
from toolchain.verify.gates import QUALITY

__all__ = ["adapted", "proved"]


def proved(lineup: Lineup) -> Proof:
    """Verify every model against its parent and the gates."""
    return _proved(lineup, "verify", lineup.all())


def adapted(lineup: Lineup, teaching: Teaching, proof: Proof) -> Proof:
    """Train the student on for its int8 file, where that misses a gate or it is asked for.

    Returns the proof with what was found of the new files; the same where nothing was trained.
    """
    log, aware, missed = lineup.log, lineup.plan.aware, _missed(proof)
    if aware is None or not (missed or aware.always) or not proof.passed("student-onnx"):
        return proof
    if missed:
        log.progress.say(f"the student is trained on with the rounding of int8: {missed}")
    exported = log.done["student-onnx"].artifact
    trained = teaching.aware(exported.path(str(exported.facts["file"]))).artifact
    again = log.step(
        "student-aware-onnx",
        {"student": trained.digest},
        {},
        lambda draft, _: export(draft, source=trained.root),
    ).artifact
    log.step(
        AWARE,
        {"student": again.digest},
        {},
        lambda draft, _: quantize(draft, source=again.root, precision=INT8),
    )
    variants = lineup.trained_on(lineup.student())
    return proof.with_more(_proved(lineup, "verify-aware", variants, proof.metrics))


def _missed(proof: Proof) -> str:
    """Return how the int8 file misses a gate of quality, or an empty string."""
    missed = (
        f"{v.gate} {v.observed}, expected {v.limit}"
        for v in proof.verdicts
        if v.model == f"student-{INT8}" and v.gate in QUALITY and v.passed is False
    )
    return next(missed, "")


def _proved(
    lineup: Lineup,
    step: str,
    variants: Sequence[Variant],
    known: Mapping[str, Metric] | None = None,
) -> Proof:
    plan, recipe, log = lineup.plan, lineup.plan.recipe, lineup.log
    beside = {f"metric-{n}": digest_of(asdict(m)) for n, m in (known or {}).items()}
    proved = log.step(
        step,
        {**{v.name: v.digest for v in variants}, "data": plan.task.digest, **beside},
        {"gates": recipe.gates.model_dump(), "metric": recipe.metric, "max": plan.max_tokens},
        lambda draft, _: verify(
            draft,
            variants=variants,
            task=plan.task,
            metric=recipe.metric,
            limits=recipe.gates,
            max_tokens=plan.max_tokens,
            threads=plan.train_threads,
            progress=log.progress,
            known=known,
        ),
    )
    return read_proof(proved.artifact)
