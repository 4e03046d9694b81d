"""One rank of trainings, one after another: alone or beside others. Arguments: a JSON file."""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from tests.unit.distill import lab
from toolchain.data.batching import Rows, tokenize
from toolchain.data.masking import IGNORED
from toolchain.distill.aggregation import Mean
from toolchain.distill.compose import Composition, compose
from toolchain.distill.engine import Holding, Whole
from toolchain.distill.records import Parts
from toolchain.distill.surgery import FakeInt8, Surgery
from toolchain.distill.surgery.fake_int8 import Product
from toolchain.distill.teachers import Readable, TrainingModel
from toolchain.distill.trainer import train
from toolchain.models.build import build_student
from toolchain.models.checkpoint import Checkpoint, inspect
from toolchain.models.loading import load_model, load_tokenizer
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
    """Return labelled sentences."""
    lines = (folder / f"{split}.tsv").read_text().splitlines()[1:]
    texts, labels = zip(*(line.split("\t") for line in lines), strict=True)
    return tokenize(tokenizer, texts, None, [names.index(n) for n in labels], max_tokens=64)


def answered(split: str) -> Rows:
    """Return prompts with answers, for decoders: of any length, and some ask for nothing."""
    drawn = np.random.default_rng(len(split))
    features, labels = [], []
    for number, length in enumerate(drawn.integers(6, 14, size=53)):
        ids = drawn.integers(5, 40, size=length)
        prompt = length - 1 if number % 3 == 0 else drawn.integers(1, 5)
        features.append({"input_ids": ids, "attention_mask": np.ones_like(ids)})
        after = np.append(ids[1:], IGNORED)
        labels.append(np.where(np.arange(length) < prompt, IGNORED, after))
    return Rows(features=features, labels=tuple(labels), pad_id=0, truncated=0, task="causal_lm")


def rounded(model: PreTrainedModel) -> FakeInt8:
    """Return the rounding of a BERT whose matrices and tables all are int8."""
    blocks = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and "layer" in n]
    tables = [n for n, m in model.named_modules() if isinstance(m, nn.Embedding)]
    return FakeInt8(products=tuple(map(Product, blocks)), tables=tuple(tables))


def parts_of(
    composed: Composition,
    stage: str,
    spec: ModelSpec,
    teachers: list[ModelSpec],
    surgery: Surgery | None,
) -> Parts:
    weighing = (composed.aggregation or Mean()).resolve(spec, teachers)
    return Parts(
        surgery=surgery,
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
        model = load_model(found.root, found.spec.task)
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


def run_case(case: dict[str, Any], rows_by: Callable[[str, str], Rows]) -> dict[str, Any]:
    """Train once; rank 0 writes the student."""
    found = [inspect(folder) for folder in case["teachers"]]
    shape = case.get("shape", {})
    spec = found[0].spec.reshaped(**{"layers": case.get("layers", 2), **shape})
    start = load_model(found[0].root, spec.task)
    init = "random" if shape else "teacher_uniform"
    student = build_student(start, found[0].family, spec, init, seed=0)
    composed = compose(case["method"], case.get("options", {}))
    surgery = rounded(student) if case.get("int8") else composed.surgery
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
            parts_of(composed, case["stage"], spec, [f.spec for f in found], surgery),
            rows_by(spec.task, "train"),
            rows_by(spec.task, "dev"),
            run,
            work,
            progress,
            holding=holding_of(case.get("student", "whole")),
        )
    except KeyboardInterrupt:
        assert "stop" in case
        return {}
    assert all(p.requires_grad for p in student.parameters()), "the next stage would miss some"
    if rank == "0":
        # Copies: a table may be the head as well.
        save_file({k: v.clone() for k, v in student.state_dict().items()}, case["out"])
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"points": trained.points, "evals": trained.evals, "gpu_bytes": peak}


def main(file: str) -> None:
    torch.set_num_threads(1)
    cases = json.loads(Path(file).read_text())
    first = inspect(cases[0]["teachers"][0])
    tokenizer = load_tokenizer(first.root)
    names = sorted(first.labels.values())

    @cache
    def rows_by(task: str, split: str) -> Rows:
        if task == "causal_lm":
            return answered(split)
        return rows_of(Path(cases[0]["data"]), tokenizer, names, split)

    for case in cases:
        done = run_case(case, rows_by)
        if os.environ.get("RANK", "0") == "0":
            Path(case["out"]).with_suffix(".json").write_text(json.dumps(done))
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        # A rank that leaves early takes the others' connections with it.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
