"""Training with int8's rounding in the one loop: what it repairs, its precision, a kill."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.distill.lab import RUN, Killed, StopAt, rows_of
from tests.unit.distill.test_surgery_training import same, weights
from toolchain.data.batching import Rows
from toolchain.distill.compose import compose
from toolchain.distill.evaluate import logits_of_rows
from toolchain.distill.records import PLAIN, Parts, StageRun
from toolchain.distill.surgery import FakeInt8
from toolchain.distill.surgery.fake_int8 import Product
from toolchain.distill.teachers import TrainingModel
from toolchain.distill.term import bind
from toolchain.distill.trainer import train
from toolchain.models.checkpoint import inspect
from toolchain.models.loading import load_model, save_model
from toolchain.progress import Null

ROUNDED = (*(f"attention.self.{name}" for name in ("query", "key", "value")),
           "attention.output.dense", "intermediate.dense", "output.dense")  # fmt: skip
INT8 = FakeInt8(
    products=(
        *(
            Product(
                f"bert.encoder.layer.{block}.{path}", block == 3 and path[-3:] not in ("key", "lue")
            )
            for block in range(4)
            for path in ROUNDED
        ),
        Product("bert.pooler.dense"),
        Product("classifier"),
    ),
    tables=tuple(f"bert.embeddings.{kind}_embeddings" for kind in ("word", "position")),
)


@dataclasses.dataclass
class Lab:
    """A model that knows its task, as student and teacher, and the task's rows."""

    folder: Path
    rows: Rows
    dev: Rows

    def model(self) -> TrainingModel:
        found = inspect(str(self.folder))
        model = load_model(self.folder, "classify")
        return TrainingModel(model=model, family=found.family, spec=found.spec)

    def train(
        self,
        student: TrainingModel,
        run: StageRun,
        work: Path,
        parts: Parts,
        method: str = "kd",
        progress: Null | None = None,
    ) -> None:
        spec = student.spec
        terms = tuple(bind(t, spec, spec) for t in compose(method, {}).stages["pred"])
        teachers = [self.model()] if method != "finetune" else []
        train(
            student, teachers, terms, parts, self.rows, self.dev, run, work, progress or Null()
        )  # fmt: skip

    def right(self, student: TrainingModel, *, rounded: bool) -> float:
        """The part of dev answered rightly, in fp32 or with the rounding of int8."""
        operation = INT8.begin(student, ()) if rounded else None
        logits = logits_of_rows(student.model, self.dev)
        if operation:
            operation.heal()
        assert isinstance(self.dev.labels, np.ndarray)
        return float((logits.argmax(-1) == self.dev.labels).mean())


@pytest.fixture(scope="module")
def lab(teacher_folder: Path, task_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    rows, dev = (rows_of(teacher_folder, task_folder, split) for split in ("train", "dev"))
    untrained = Lab(teacher_folder, rows, dev)
    model = untrained.model()
    run = dataclasses.replace(RUN, steps=150, lr=5e-3)
    untrained.train(model, run, tmp_path_factory.mktemp("work"), PLAIN, "finetune")
    folder = tmp_path_factory.mktemp("trained")
    save_model(model.model, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((teacher_folder / name).read_bytes())
    return Lab(folder, rows, dev)


@torch.no_grad()
def widened(student: TrainingModel, factor: float) -> TrainingModel:
    """Make a value feature of each head larger and what reads it smaller: the same in fp32."""
    for block in student.model.bert.encoder.layer:
        value, out = block.attention.self.value, block.attention.output.dense
        value.weight[::8] *= factor
        value.bias[::8] *= factor
        out.weight[:, ::8] /= factor
    return student


def test_training_with_the_rounding_gives_back_what_it_took(lab: Lab, tmp_path: Path) -> None:
    start = widened(lab.model(), 1000.0)
    whole, rounded = (lab.right(start, rounded=own) for own in (False, True))
    assert whole == 1.0
    assert rounded < 0.8
    run = dataclasses.replace(RUN, steps=60)
    lab.train(start, run, tmp_path, Parts(surgery=INT8))
    assert lab.right(start, rounded=True) > rounded + 0.1


def test_a_killed_run_ends_as_if_it_had_not_been(lab: Lab, tmp_path: Path) -> None:
    whole, cut, resumed = lab.model(), lab.model(), lab.model()
    lab.train(whole, RUN, tmp_path / "whole", Parts(surgery=INT8))
    with pytest.raises(Killed):
        lab.train(cut, RUN, tmp_path / "cut", Parts(surgery=INT8), progress=StopAt(7))
    lab.train(resumed, RUN, tmp_path / "cut", Parts(surgery=INT8))
    assert same(weights(resumed), weights(whole))
    assert not any("forward" in vars(module) for module in resumed.model.modules())


def test_the_student_is_computed_in_fp32_where_the_run_is_in_bf16(lab: Lab, tmp_path: Path) -> None:
    students = []
    for bf16 in (False, True):
        student = lab.model()
        run = dataclasses.replace(RUN, bf16=bf16)
        lab.train(student, run, tmp_path / str(bf16), Parts(surgery=INT8), "finetune")
        students.append(weights(student))
    assert same(*students)
