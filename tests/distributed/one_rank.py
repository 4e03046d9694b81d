"""One rank of trainings, one after another: alone or beside others. Arguments: a JSON file."""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.unit.distill import lab
from toolchain.data.batching import Rows, tokenize
from toolchain.distill.aggregation import Mean
from toolchain.distill.compose import Composition, compose
from toolchain.distill.engine import Holding, Whole
from toolchain.distill.records import Parts
from toolchain.distill.teachers import Readable, TrainingModel
from toolchain.distill.trainer import train
from toolchain.models.build import build_student
from toolchain.models.checkpoint import Checkpoint, inspect
from toolchain.models.loading import load_classifier, load_tokenizer
from toolchain.plan.training import bound_to_all
from toolchain.progress import Null
from toolchain.spec import ModelSpec

RUN = replace(
    lab.RUN,
    steps=6,
    # Odd, so that the ranks' slices and their numbers of tokens differ.
    batch_size=13,
    evals=1,
    keep_best=False,
    checkpoint_seconds=1e9,
)


def rows_of(folder: Path, tokenizer: Any, names: list[str], split: str) -> Rows:
    lines = (folder / f"{split}.tsv").read_text().splitlines()[1:]
    texts, labels = zip(*(line.split("\t") for line in lines), strict=True)
    return tokenize(tokenizer, texts, None, [names.index(n) for n in labels], max_tokens=64)


def parts_of(
    composed: Composition, stage: str, spec: ModelSpec, teachers: list[ModelSpec]
) -> Parts:
    weighing = (composed.aggregation or Mean()).resolve(spec, teachers)
    return Parts(
        surgery=composed.surgery,
        operators=tuple(op for op in composed.operators if stage in op.stages),
        aggregation=weighing if len(teachers) > 1 else None,
    )


def holding_of(placement: str) -> Holding:
    if placement == "whole":
        return Whole
    from toolchain.scale.deepspeed import Sharding

    return Sharding(placement)  # type: ignore[arg-type]


def teacher_of(found: Checkpoint, placement: str) -> Readable:
    if placement == "whole":
        model = load_classifier(found.root)
        return TrainingModel(model=model, family=found.family, spec=found.spec)
    if placement == "tensor_parallel":
        from toolchain.scale.cut import CutModel

        return CutModel(folder=found.root, family=found.family, spec=found.spec)
    from toolchain.scale.teachers import ShardedTeacher

    return ShardedTeacher(
        folder=found.root, family=found.family, spec=found.spec, placement=placement
    )


class StopAt(Null):
    """Interrupts the last rank, as Ctrl-C would: all must stop after the same step."""

    def __init__(self, step: int) -> None:
        self.at = step

    def advance(self, task: str, done: int, total: int, **figures: object) -> None:  # noqa: ARG002
        last = int(os.environ.get("WORLD_SIZE", "1")) - 1
        if done == self.at and os.environ.get("RANK", "0") == str(last):
            os.kill(os.getpid(), signal.SIGINT)


def run_case(case: dict[str, Any], rows: Callable[[str], Rows]) -> dict[str, Any]:
    """Train once; rank 0 writes the student."""
    found = [inspect(folder) for folder in case["teachers"]]
    layers = case.get("layers", 2)
    spec = found[0].spec.reshaped(layers=layers, **case.get("shape", {}))
    start = load_classifier(found[0].root)
    init = "random" if case.get("shape") else "teacher_uniform"
    student = build_student(start, found[0].family, spec, init, seed=0)
    composed = compose(case["method"], case.get("options", {}))
    terms = bound_to_all(composed.stages[case["stage"]], spec, [f.spec for f in found])  # type: ignore[index]
    run = replace(RUN, **case.get("run", {}))
    rank = os.environ.get("RANK", "0")
    work = Path(case.get("work", Path(case["out"]).with_suffix("")))
    progress = StopAt(case["stop"]) if "stop" in case else Null()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        trained = train(
            TrainingModel(model=student, family=found[0].family, spec=spec),
            [teacher_of(f, case.get("teacher", "whole")) for f in found],
            terms,
            parts_of(composed, case["stage"], spec, [f.spec for f in found]),
            rows("train"),
            rows("dev"),
            run,
            work,
            progress,
            holding=holding_of(case.get("student", "whole")),
        )
    except KeyboardInterrupt:
        assert "stop" in case
        return {}
    if rank == "0":
        save_file({k: v.contiguous() for k, v in student.state_dict().items()}, case["out"])
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"points": trained.points, "evals": trained.evals, "gpu_bytes": peak}


def main(file: str) -> None:
    torch.set_num_threads(1)
    cases = json.loads(Path(file).read_text())
    first = inspect(cases[0]["teachers"][0])
    tokenizer = load_tokenizer(first.root)
    names = sorted(first.labels.values())
    made: dict[str, Rows] = {}

    def rows(split: str) -> Rows:
        if split not in made:
            made[split] = rows_of(Path(cases[0]["data"]), tokenizer, names, split)
        return made[split]

    for case in cases:
        done = run_case(case, rows)
        if os.environ.get("RANK", "0") == "0":
            Path(case["out"]).with_suffix(".json").write_text(json.dumps(done))
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        # A rank that leaves early takes the others' connections with it.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
