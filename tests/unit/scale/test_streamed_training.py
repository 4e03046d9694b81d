"""A student learns from a streamed teacher what it learns from the same teacher in memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.distill.lab import RUN, rows_of
from toolchain.distill.compose import compose
from toolchain.distill.records import PLAIN
from toolchain.distill.teachers import Readable, TrainingModel
from toolchain.distill.term import bind
from toolchain.distill.trainer import train
from toolchain.models.build import build_student
from toolchain.models.checkpoint import inspect
from toolchain.models.loading import load_classifier
from toolchain.progress import Null
from toolchain.scale.stream import streamed


@pytest.mark.parametrize(
    ("method", "stage"), [("kd", "pred"), ("minilm_v2", "inter"), ("tinybert", "inter")]
)
def test_a_student_learns_the_same_from_a_streamed_teacher(
    method: str, stage: str, teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    found = inspect(str(teacher_folder))
    rows = rows_of(teacher_folder, task_folder, "train")
    spec = found.spec.reshaped(layers=2)
    run = replace(RUN, name=stage, steps=3, keep_best=False, evals=1)
    terms = tuple(bind(t, spec, found.spec) for t in compose(method, {}).stages[stage])  # type: ignore[index]
    ends = []
    for name in ("memory", "streamed"):
        model = load_classifier(teacher_folder)
        student = TrainingModel(
            model=build_student(model, found.family, spec, "teacher_uniform", seed=0),
            family=found.family,
            spec=spec,
        )
        teacher: Readable = streamed(found)
        if name == "memory":
            teacher = TrainingModel(model=model, family=found.family, spec=found.spec)
        train(student, [teacher], terms, PLAIN, rows, rows, run, tmp_path / name, Null())
        ends.append(student.model.state_dict())
    # In memory the last block is computed for one token alone. Of a bias of keys, whose gradient
    # is rounding and nothing else, Adam makes steps of full size.
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-5, atol=1e-5)
