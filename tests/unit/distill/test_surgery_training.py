"""Surgery inside the one loop: it learns, resumes to the bit, and ends as an ordinary model."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.unit.distill.lab import RUN, Killed, StopAt
from toolchain.data.batching import Rows
from toolchain.data.sources import load_task
from toolchain.data.tokenizing import tokenize_split
from toolchain.distill import matching
from toolchain.distill.compose import compose
from toolchain.distill.evaluate import logits_of_rows
from toolchain.distill.records import Parts, StageRun, Trained
from toolchain.distill.teachers import TrainingModel
from toolchain.distill.term import bind
from toolchain.distill.trainer import train
from toolchain.models.build import build_student
from toolchain.models.checkpoint import inspect
from toolchain.models.initialise import Init
from toolchain.models.loading import load_model, load_tokenizer, save_model
from toolchain.progress import Null
from toolchain.recipe import Columns

Options = Mapping[str, object]


@dataclasses.dataclass
class Lab:
    """A teacher that knows its task, and the task's rows."""

    folder: Path
    rows: Rows
    dev: Rows

    def teacher(self) -> TrainingModel:
        found = inspect(str(self.folder))
        model = load_model(self.folder, "classify")
        return TrainingModel(model=model, family=found.family, spec=found.spec)

    def train(
        self,
        method: str,
        layers: int,
        run: StageRun,
        work: Path,
        progress: Null | None = None,
        **options: object,
    ) -> tuple[Trained, TrainingModel]:
        teacher = self.teacher()
        composed = compose(method, {method: options} if options else {})
        spec = teacher.spec.reshaped(layers=layers)
        init: Init = composed.init or "teacher_first_k"
        model = build_student(teacher.model, teacher.family, spec, init, seed=0)
        student = TrainingModel(model=model, family=teacher.family, spec=spec)
        terms = tuple(bind(t, spec, teacher.spec) for t in composed.stages["pred"])
        parts = Parts(surgery=composed.surgery)
        done = train(
            student, [teacher], terms, parts, self.rows, self.dev, run, work, progress or Null()
        )
        return done, student


@pytest.fixture(scope="module")
def lab(teacher_folder: Path, task_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    tokenizer = load_tokenizer(teacher_folder)
    task = load_task(str(task_folder), columns=Columns(), teacher_labels=None)
    rows, dev = (
        tokenize_split(tokenizer, split, task, max_tokens=64, seed=0, packed=False)
        for split in (task.train, task.dev)
    )
    untrained = Lab(teacher_folder, rows, dev)
    folder = tmp_path_factory.mktemp("trained")
    run = dataclasses.replace(RUN, steps=150, lr=5e-3)
    done, model = untrained.train("finetune", 4, run, tmp_path_factory.mktemp("work"))
    assert done.best_metric == 1.0
    save_model(model.model, folder)
    tokenizer.save_pretrained(folder)
    return Lab(folder, rows, dev)


def weights(side: TrainingModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in side.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


CASES = [("theseus", 2, {}), ("cofi", 4, {"sparsity": 0.5})]


@pytest.mark.parametrize(("method", "layers", "options"), CASES)
@pytest.mark.parametrize("step", [1, 5, 11])
def test_a_run_stopped_anywhere_ends_as_if_it_had_not(
    lab: Lab, tmp_path: Path, method: str, layers: int, options: Options, step: int
) -> None:
    whole, expected = lab.train(method, layers, RUN, tmp_path / "whole", **options)
    with pytest.raises(Killed):
        lab.train(method, layers, RUN, tmp_path / "cut", StopAt(step), **options)
    resumed, found = lab.train(method, layers, RUN, tmp_path / "cut", **options)
    assert same(weights(found), weights(expected))
    assert resumed.points == whole.points
    assert resumed.evals == whole.evals


@pytest.mark.parametrize(("method", "layers", "options"), CASES)
def test_a_finished_stage_is_restored_without_a_step(
    lab: Lab, tmp_path: Path, method: str, layers: int, options: Options
) -> None:
    _, expected = lab.train(method, layers, RUN, tmp_path, **options)
    _, found = lab.train(method, layers, RUN, tmp_path, StopAt(1), **options)
    assert same(weights(found), weights(expected))


@pytest.mark.parametrize(("method", "layers", "options"), CASES)
def test_the_student_is_what_was_evaluated_last_or_best(
    lab: Lab, tmp_path: Path, method: str, layers: int, options: Options
) -> None:
    run = dataclasses.replace(RUN, steps=60, lr=2e-3)
    done, student = lab.train(method, layers, run, tmp_path, **options)
    logits = logits_of_rows(student.model, lab.dev)
    assert (logits.argmax(-1) == lab.dev.labels).mean() == pytest.approx(done.best_metric)


def test_cofi_matches_only_blocks_its_masks_keep(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[frozenset[int] | None] = []
    own = matching.DynamicArgmin.pair

    def pair(self, layer_map, student, teacher, context):
        found.append(context.standing)
        return own(self, layer_map, student, teacher, context)

    monkeypatch.setattr(matching.DynamicArgmin, "pair", pair)
    run = dataclasses.replace(RUN, steps=60, lr=2e-3)
    _, student = lab.train("cofi", 4, run, tmp_path, sparsity=0.85)
    assert len(found) == 60
    assert found[0] == {1, 2, 3, 4}
    left = student.family.spec(student.model.config.to_dict()).layers
    assert left < 4
    # From `until` on the shape is fixed, and it is the one that is kept.
    assert len(set(found[42:])) == 1
    assert len(found[-1] or ()) == left


def test_theseus_keeps_what_the_teacher_knows(lab: Lab, tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, steps=120, lr=2e-3)
    done, _ = lab.train("theseus", 2, run, tmp_path)
    assert done.best_metric is not None
    assert done.best_metric > 0.9


def test_cofi_cuts_to_the_sparsity_and_keeps_what_the_teacher_knows(
    lab: Lab, tmp_path: Path
) -> None:
    run = dataclasses.replace(RUN, steps=200, lr=2e-3)
    done, student = lab.train("cofi", 4, run, tmp_path, sparsity=0.6)
    assert done.best_metric is not None
    assert done.best_metric > 0.9
    spec = student.family.spec(student.model.config.to_dict())
    whole = student.spec
    assert spec.layers * spec.block_params() <= 0.4 * whole.layers * whole.block_params()
