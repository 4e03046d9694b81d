"""One rank of a training: run by test_two_ranks.py, alone or beside another."""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from toolchain.data.batching import Rows, tokenize
from toolchain.distill.compose import compose
from toolchain.distill.records import Parts, StageRun
from toolchain.distill.teachers import TrainingModel
from toolchain.distill.term import bind
from toolchain.distill.trainer import train
from toolchain.models.build import build_student
from toolchain.models.checkpoint import inspect
from toolchain.models.loading import load_classifier, load_tokenizer
from toolchain.progress import Null


def main(method: str, stage: str, teacher_folder: str, data: str, out: str) -> None:
    torch.set_num_threads(1)
    found = inspect(teacher_folder)
    tokenizer = load_tokenizer(found.root)
    names = sorted(found.labels.values())

    def rows(split: str) -> Rows:
        lines = (Path(data) / f"{split}.tsv").read_text().splitlines()[1:]
        texts, labels = zip(*(line.split("\t") for line in lines), strict=True)
        return tokenize(tokenizer, texts, None, [names.index(n) for n in labels], max_tokens=64)

    teacher = load_classifier(found.root)
    spec = found.spec.reshaped(layers=2)
    student = build_student(teacher, found.family, spec, "teacher_uniform", seed=0)
    composed = compose(method, {})
    terms = tuple(bind(t, spec, found.spec) for t in composed.stages[stage])  # type: ignore[index]
    run = StageRun(
        name=stage,
        steps=8,
        # Odd, so that the ranks' slices and their numbers of tokens differ.
        batch_size=13,
        lr=1e-3,
        warmup=0.1,
        weight_decay=0.01,
        clip=1.0,
        evals=1,
        keep_best=False,
        bf16=False,
        seed=5,
        metric="accuracy",
        checkpoint_seconds=1e9,
    )
    rank = os.environ.get("RANK", "0")
    work = Path(out).with_name(f"work-{Path(out).stem}-{rank}")
    train(
        TrainingModel(model=student, family=found.family, spec=spec),
        [TrainingModel(model=teacher, family=found.family, spec=found.spec)],
        terms,
        Parts(surgery=composed.surgery),
        rows("train"),
        rows("dev"),
        run,
        work,
        Null(),
    )
    if rank == "0":
        save_file({k: v.contiguous() for k, v in student.state_dict().items()}, out)
    if torch.distributed.is_initialized():
        # A rank that leaves early takes the others' connections with it.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
