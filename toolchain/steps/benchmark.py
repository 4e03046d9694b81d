"""The step that measures: all variants by turns, on the task's lengths and at fixed ones."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from toolchain.artifact import Artifact, Draft, write_atomic
from toolchain.bench.environment import environment
from toolchain.bench.footprint import footprint
from toolchain.bench.job import Contender
from toolchain.bench.loads import fixed_length, task_lengths
from toolchain.bench.runner import time_contenders
from toolchain.bench.warnings import what_looked_wrong
from toolchain.data.sources import TaskData
from toolchain.data.tokenizing import tokenize_split
from toolchain.measurement import Footprint, Load, Measurement
from toolchain.models.loading import load_tokenizer
from toolchain.models.tokenizers import same_tokenizer
from toolchain.progress import Progress
from toolchain.recipe import Benchmark
from toolchain.runtimes.runtime import Feed
from toolchain.steps.variants import Variant

__all__ = ["Timing", "benchmark", "read_timing"]

_FILE = "benchmark.json"
# How a decoder is timed where it goes on with a text.
_PROMPT, _NEW_TOKENS = 16, 32
_PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What was measured, where, and what looked wrong."""

    measurements: tuple[Measurement, ...]
    footprints: tuple[Footprint, ...]
    environment: Mapping[str, object]
    warnings: tuple[str, ...]

    def at_task(self, name: str) -> Measurement | None:
        """Return the measurement of a variant at the task's own lengths."""
        found = (m for m in self.measurements if m.model == name and m.load.tokens == "task")
        return next(found, None)


def _decoding(limit: int, timed: Mapping[str, float]) -> Load:
    """Return the load of going on with a short prompt, within what the shortest model reads."""
    prompt = min(_PROMPT, max(2, limit // 4))
    new = min(_NEW_TOKENS, limit - prompt)
    return Load(tokens=prompt, new_tokens=new, **timed)  # type: ignore[arg-type]


def read_timing(artifact: Artifact) -> Timing:
    """Read what `benchmark` wrote."""
    content = json.loads(artifact.path(_FILE).read_text(encoding="utf-8"))
    return TypeAdapter(Timing).validate_python(content)


def benchmark(
    draft: Draft,
    *,
    variants: Sequence[Variant],
    task: TaskData,
    settings: Benchmark,
    max_tokens: int,
    threads: int,
    seed: int,
    work: Path,
    progress: Progress,
) -> None:
    """Time the variants on this machine. What is measured here is labelled "host".

    All answer the rows of the last variant; those with another tokenizer the same texts in their
    own tokens.
    """
    limits = [v.max_tokens or max_tokens for v in variants]
    timed: dict[str, float] = {"min_seconds": settings.min_seconds, "min_runs": settings.min_runs}
    loads = [Load(tokens="task", **timed)]  # type: ignore[arg-type]
    loads += [Load(tokens=n, **timed) for n in settings.tokens if n <= min(limits)]  # type: ignore[arg-type]

    if task.task == "causal_lm":
        loads.append(_decoding(min(limits), timed))

    def fed(variant: Variant) -> list[list[Feed]]:
        tokenizer, limit = load_tokenizer(variant.folder), variant.max_tokens or max_tokens
        rows = tokenize_split(tokenizer, task.dev, task, max_tokens=limit).features
        return [
            task_lengths(rows, settings.min_runs, seed)
            if load.tokens == "task"
            else fixed_length(rows, load.tokens, settings.rounds, seed)
            for load in loads
        ]

    last = variants[-1]
    cases = list(zip(loads, fed(last), strict=True))
    own = {v.name: fed(v) for v in variants if not same_tokenizer(v.folder, last.folder)}
    contenders = [Contender(name=v.name, runtime=v.runtime, path=v.path) for v in variants]
    surroundings = environment()
    measurements = time_contenders(
        contenders,
        cases,
        target="host",
        fidelity="measured",
        threads=threads,
        provider=_PROVIDER,
        rounds=settings.rounds,
        work=work,
        progress=progress,
        own=own,
    )
    footprints = []
    for i, contender in enumerate(contenders):
        progress.advance("footprint", i, len(contenders))
        feed = own[contender.name][0][0] if contender.name in own else cases[0][1][0]
        footprints.append(
            footprint(contender, feed, threads=threads, provider=_PROVIDER, work=work)
        )
    progress.advance("footprint", len(contenders), len(contenders))
    timing = Timing(
        measurements=tuple(measurements),
        footprints=tuple(footprints),
        environment=dict(surroundings),
        warnings=tuple(what_looked_wrong(measurements, surroundings)),
    )
    content = TypeAdapter(Timing).dump_json(timing)
    write_atomic(draft.folder / _FILE, content + b"\n")
    draft.format = "benchmark"
