"""What ships where: the gates that need measurements, and the best passing file per target."""

from collections.abc import Sequence
from dataclasses import replace

from toolchain import metrics
from toolchain.export.exporter import ONNX
from toolchain.measurement import Verdict
from toolchain.progress import Progress
from toolchain.recipe import Gates
from toolchain.steps.benchmark import Timing
from toolchain.steps.variants import Variant
from toolchain.steps.verify import Proof
from toolchain.target import Target
from toolchain.verify import gates
from toolchain.verify.choice import Candidate, Shipping, choose

__all__ = ["better_of", "decide"]


def decide(
    files: Sequence[Variant],
    targets: Sequence[Target],
    limits: Gates,
    proof: Proof,
    timing: Timing,
    *,
    progress: Progress,
) -> tuple[dict[str, Shipping], list[Verdict]]:
    """Return what ships to each target, and all verdicts of the run."""
    names = {variant.name for variant in files}
    # A teacher's export that misses its parity spoils a comparison, not the student.
    others = [v for v in proof.verdicts if v.model not in names]
    common = [v for v in proof.verdicts if v.model in names]
    for variant in files:
        metric = proof.metrics.get(variant.name)
        kept = gates.min_kept(metric, limits, model=variant.name) if metric else None
        common += [kept] if kept else []
        if variant.precision != "fp32":
            # The parent of another format's file is the fp32 ONNX file, in another runtime.
            mine, parent = timing.at_task(variant.name), timing.at_task(variant.parent)
            across = variant.format != ONNX
            common.append(gates.faster(mine, parent, model=variant.name, across=across))
    candidates = [
        Candidate(
            model=v.name,
            precision=v.precision,
            opset=v.opset,
            file_bytes=v.bytes,
            format=v.format,
        )
        for v in files
    ]
    shipping: dict[str, Shipping] = {}
    verdicts = others + common
    for target in targets:
        own = [
            verdict
            for v in files
            if (
                verdict := gates.latency(
                    timing.at_task(v.name), limits, target=target, model=v.name
                )
            )
        ]
        verdicts += own
        shipping[target.name] = choose(candidates, common + own, target, _p50s(files, timing))
        for why in shipping[target.name].rejected.values():
            progress.say(f"not shipped to {target.name}: {why}")
    return shipping, verdicts


def better_of(plain: Variant, aware: Variant, proof: Proof) -> tuple[Variant, Variant]:
    """Return an int8 file and the one of the student trained for int8, one of them published.

    That is the better one of those that pass; where both do, the other one does not ship either. A
    file is no better proved than the one it was made from.
    """
    sound = proof.passed(aware.parent)
    passes = sound and proof.passed(aware.name)
    wins = passes
    if passes and proof.passed(plain.name):
        ours, theirs = proof.metrics[aware.name], proof.metrics[plain.name]
        wins = not metrics.better(ours.name, theirs.value, ours.value)
        plain, aware = replace(plain, candidate=not wins), replace(aware, candidate=wins)
    if wins:
        return replace(plain, published=""), aware
    return plain, replace(aware, published="", candidate=aware.candidate and sound)


def _p50s(files: Sequence[Variant], timing: Timing) -> dict[str, float]:
    """Return the median time of each file that was timed at the task's lengths."""
    found = {v.name: timing.at_task(v.name) for v in files}
    medians = {name: m.percentile_ms(50) for name, m in found.items() if m}
    return {name: ms for name, ms in medians.items() if ms is not None}
