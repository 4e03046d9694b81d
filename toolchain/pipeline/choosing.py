"""What ships: the proved files are timed, and of them each target gets the best that it takes."""

from toolchain.measurement import Verdict
from toolchain.pipeline.lineup import Lineup
from toolchain.steps.benchmark import Timing, benchmark, read_timing
from toolchain.steps.decide import decide
from toolchain.steps.verify import Proof
from toolchain.verify.choice import Shipping

__all__ = ["chosen", "measured"]


def measured(lineup: Lineup, proof: Proof) -> Timing:
    """Time what was proved."""
    plan, recipe, log = lineup.plan, lineup.plan.recipe, lineup.log
    # What is not proved is not timed; the baseline has the student's shape and speed.
    timed = [
        v
        for v in lineup.all(proof)
        if v.role != "baseline"
        and (v.role, v.format) != ("student", "torch")
        and proof.passed(v.name)
    ]
    step = log.step(
        "benchmark",
        {**{v.name: v.digest for v in timed}, "data": plan.task.digest},
        {
            "settings": recipe.benchmark.model_dump(),
            "threads": plan.bench_threads,
            "seed": recipe.seed,
            "max_tokens": plan.max_tokens,
        },
        lambda draft, work: benchmark(
            draft,
            variants=timed,
            task=plan.task,
            settings=recipe.benchmark,
            max_tokens=plan.max_tokens,
            threads=plan.bench_threads,
            seed=recipe.seed,
            work=work,
            progress=log.progress,
        ),
    )
    return read_timing(step.artifact)


def chosen(
    lineup: Lineup, proof: Proof, timing: Timing
) -> tuple[dict[str, Shipping], list[Verdict]]:
    """Decide what ships to each target, and return the verdicts on what was tried."""
    plan, models = lineup.plan, lineup.all(proof)
    files = [v for v in models if v.role == "student" and v.format != "torch" and v.candidate]
    return decide(
        files, plan.targets, plan.recipe.gates, proof, timing, progress=lineup.log.progress
    )
