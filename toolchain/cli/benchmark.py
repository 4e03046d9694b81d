"""`toolchain benchmark`: several models by turns on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from toolchain.cli import options as o
from toolchain.cli.console import err, out, table_text, working
from toolchain.cli.stage import folder_digests, run_folder_step
from toolchain.errors import UsageError

if TYPE_CHECKING:
    from toolchain.artifact import Artifact

__all__ = ["run"]


def run(
    models: Annotated[list[Path], typer.Argument(help="Model folders.", metavar="DIR...")],
    data: Annotated[str, typer.Option("--data", help="Task data.", metavar="DIR|FILE|HUB_ID")],
    output: o.Output = Path("measured"),
    seconds: Annotated[float, typer.Option("--seconds", help="At least, per load.")] = 2.0,
    threads: o.Threads = None,
    seed: o.Seed = None,
    json_: o.Json = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """Time models alternately, single-stream, on the task's lengths and at fixed ones."""
    from toolchain.config import parse
    from toolchain.recipe import Benchmark
    from toolchain.steps.folders import data_for, max_tokens_of, variant_of

    names = [str(folder) for folder in models]
    if len(set(names)) != len(names):
        raise UsageError("a model is named twice")
    inputs = folder_digests(**{name: Path(name) for name in names})
    task = data_for(models[0], data)
    variants = [variant_of(folder, str(folder)) for folder in models]
    settings = parse(Benchmark, {"min_seconds": seconds}, where="--seconds")
    from toolchain.steps.benchmark import benchmark, read_timing

    with working(verbose=verbose) as progress:
        artifact = run_folder_step(
            output,
            "benchmark",
            {**inputs, "data": task.digest},
            {"settings": settings.model_dump(), "threads": threads or 1, "seed": seed or 0},
            lambda draft, work: benchmark(
                draft,
                variants=variants,
                task=task,
                settings=settings,
                max_tokens=min(max_tokens_of(folder) for folder in models),
                threads=threads or 1,
                seed=seed or 0,
                work=work,
                progress=progress,
            ),
            json_=json_,
            verbose=verbose,
            found=_as_json,
        )
    timing = read_timing(artifact)
    if not json_:
        table = Table("model", "tokens", "p50 ms", "p90 ms", "p99 ms", "runs", box=None)
        for m in timing.measurements:
            figures = ("-" if p is None else f"{p:.3f}" for p in map(m.percentile_ms, (50, 90, 99)))
            more = f" + {m.load.new_tokens} new" if m.load.new_tokens else ""
            table.add_row(m.model, f"{m.load.tokens}{more}", *figures, str(len(m.samples_ns)))
        out(table_text(table))
    for warning in timing.warnings:
        err.print(f"warning: {warning}", markup=False)


def _as_json(artifact: "Artifact") -> dict[str, object]:
    """Return the figures; the samples they are of stay in the folder."""
    from toolchain.steps.benchmark import read_timing

    timing = read_timing(artifact)
    raw = ("samples", "round_sizes")
    latency = [
        {"model": one.model, **{k: v for k, v in one.as_json().items() if k not in raw}}
        for one in timing.measurements
    ]
    return {"latency": latency, "warnings": list(timing.warnings)}
