"""The one loop on a real tiny model: it learns, resumes to the bit, and stops on nonsense."""

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.distill.lab import RUN, Killed, StopAt, rows_of
from toolchain.data.batching import Rows
from toolchain.distill.compose import compose
from toolchain.distill.records import PLAIN, StageRun, Trained
from toolchain.distill.teachers import TrainingModel
from toolchain.distill.term import bind
from toolchain.distill.trainer import train
from toolchain.errors import StepError
from toolchain.models.build import build_student
from toolchain.models.checkpoint import inspect
from toolchain.models.loading import load_classifier
from toolchain.progress import Null
from toolchain.spec import ModelSpec


@dataclasses.dataclass
class Lab:
    folder: Path
    rows: Rows
    dev: Rows

    @property
    def spec(self) -> ModelSpec:
        return inspect(str(self.folder)).spec

    def models(self) -> tuple[TrainingModel, TrainingModel]:
        found = inspect(str(self.folder))
        teacher = load_classifier(self.folder)
        spec = found.spec.reshaped(layers=2)
        student = build_student(teacher, found.family, spec, "teacher_uniform", seed=0)
        return (
            TrainingModel(model=student, family=found.family, spec=spec),
            TrainingModel(model=teacher, family=found.family, spec=found.spec),
        )

    def train(
        self, method: str, run: StageRun, work: Path, progress: Null | None = None
    ) -> tuple[Trained, dict[str, torch.Tensor]]:
        student, teacher = self.models()
        stages = compose(method, {}).stages
        terms = tuple(bind(t, student.spec, teacher.spec) for t in stages[run.name])  # type: ignore[index]
        done = train(
            student, [teacher], terms, PLAIN, self.rows, self.dev, run, work, progress or Null()
        )
        return done, {k: v.clone() for k, v in student.model.state_dict().items()}


@pytest.fixture(scope="module")
def lab(teacher_folder: Path, task_folder: Path) -> Lab:
    train, dev = (rows_of(teacher_folder, task_folder, name) for name in ("train", "dev"))
    return Lab(teacher_folder, train, dev)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_training_on_labels_learns_the_task(lab: Lab, tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, steps=150, lr=5e-3)
    done, _ = lab.train("finetune", run, tmp_path)
    assert done.best_metric is not None
    assert done.best_metric > 0.9
    assert done.points[-1]["loss"] < 0.5 * done.points[0]["loss"]


def test_two_runs_are_equal_to_the_bit(lab: Lab, tmp_path: Path) -> None:
    first, a = lab.train("kd", RUN, tmp_path / "a")
    second, b = lab.train("kd", RUN, tmp_path / "b")
    assert same(a, b)
    assert first.points == second.points


@pytest.mark.parametrize("method", ["kd", "tinybert"])
def test_what_no_term_reads_of_the_last_block_is_not_computed(
    lab: Lab, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heights: dict[str, set[int]] = {"student": set(), "teacher": set()}
    models = lab.models

    def watched() -> tuple[TrainingModel, TrainingModel]:
        both = models()
        for name, side in zip(heights, both, strict=True):
            last = side.model.get_submodule(f"bert.encoder.layer.{side.spec.layers - 1}")
            last.register_forward_hook(lambda *args, n=name: heights[n].add(args[2].shape[1]))
        return both

    monkeypatch.setattr(lab, "models", watched)
    lab.train(
        method, dataclasses.replace(RUN, name="pred" if method == "kd" else "inter"), tmp_path
    )
    assert ({1} == heights["student"]) is (method == "kd")
    assert ({1} == heights["teacher"]) is (method == "kd")


@pytest.mark.parametrize(
    ("method", "stage"), [("kd", "pred"), ("tinybert", "inter"), ("taid", "pred")]
)
@pytest.mark.parametrize("step", [1, 5, 11])
def test_a_run_stopped_anywhere_ends_as_if_it_had_not(
    lab: Lab, tmp_path: Path, method: str, stage: str, step: int
) -> None:
    run = dataclasses.replace(RUN, name=stage, keep_best=stage == "pred")
    whole, expected = lab.train(method, run, tmp_path / "whole")
    with pytest.raises(Killed):
        lab.train(method, run, tmp_path / "cut", StopAt(step))
    resumed, found = lab.train(method, run, tmp_path / "cut")
    assert same(found, expected)
    assert resumed.points == whole.points
    assert resumed.evals == whole.evals


def test_a_finished_stage_is_restored_without_a_step(lab: Lab, tmp_path: Path) -> None:
    _, expected = lab.train("kd", RUN, tmp_path)
    _, found = lab.train("kd", RUN, tmp_path, StopAt(1))
    assert same(found, expected)


def test_the_best_weights_on_dev_are_kept(lab: Lab, tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, steps=60, lr=2e-2, evals=6)
    done, _ = lab.train("finetune", run, tmp_path)
    assert done.best_metric == max(e["metric"] for e in done.evals)
    first_best = next(e["step"] for e in done.evals if e["metric"] == done.best_metric)
    assert done.best_step == first_best


def test_a_checkpoint_holds_no_pickle_and_a_torn_one_is_not_trusted(
    lab: Lab, tmp_path: Path
) -> None:
    _, expected = lab.train("kd", RUN, tmp_path)
    checkpoint = tmp_path / "checkpoint.safetensors"
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".safetensors", ".safetensors"]
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    _, found = lab.train("kd", RUN, tmp_path)
    assert same(found, expected)


def test_a_loss_that_is_not_finite_stops_with_step_term_and_rows(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(StepError) as stop:
        lab.train("kd", dataclasses.replace(RUN, lr=1e30, clip=1e30), tmp_path)
    assert "is not finite at step" in str(stop.value)
    assert "kd/soft" in str(stop.value)
    assert "rows" in str(stop.value)


def test_ctrl_c_saves_the_state_and_the_run_goes_on(lab: Lab, tmp_path: Path) -> None:
    class Interrupt(Null):
        def advance(self, task: str, done: int, total: int, **figures: object) -> None:  # noqa: ARG002
            if done == 4:
                os.kill(os.getpid(), signal.SIGINT)

    slow = dataclasses.replace(RUN, checkpoint_seconds=1e9)
    _, expected = lab.train("kd", slow, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        lab.train("kd", slow, tmp_path / "cut", Interrupt())
    assert (tmp_path / "cut" / "checkpoint.safetensors").is_file()
    _, found = lab.train("kd", slow, tmp_path / "cut")
    assert same(found, expected)


def test_bf16_stays_near_fp32(lab: Lab, tmp_path: Path) -> None:
    plain, _ = lab.train(
        "tinybert", dataclasses.replace(RUN, name="inter", keep_best=False), tmp_path / "a"
    )
    half, _ = lab.train(
        "tinybert",
        dataclasses.replace(RUN, name="inter", keep_best=False, bf16=True),
        tmp_path / "b",
    )
    first, second = plain.points[0]["loss"], half.points[0]["loss"]
    assert second == pytest.approx(first, rel=0.02)


def test_every_stage_of_one_student_computes_in_bf16(lab: Lab, tmp_path: Path) -> None:
    student, teacher = lab.models()
    seen = set[torch.dtype]()
    query = student.model.get_submodule("bert.encoder.layer.0.attention.self.query")
    query.register_forward_hook(lambda *args: seen.add(args[-1].dtype) if query.training else None)
    for name in ("inter", "pred"):
        seen.clear()
        terms = tuple(
            bind(t, student.spec, teacher.spec) for t in compose("tinybert", {}).stages[name]
        )
        run = dataclasses.replace(RUN, name=name, steps=2, keep_best=False, bf16=True)
        # A teacher that is read in bf16 is not given back in fp32.
        _, teacher = lab.models()
        train(
            student, [teacher], terms, PLAIN, lab.rows, lab.dev, run, tmp_path / name, Null()
        )  # fmt: skip
        assert seen == {torch.bfloat16}
    assert "forward" not in vars(student.model)


def test_every_batch_of_an_epoch_is_seen_once(lab: Lab) -> None:
    from toolchain.data.batching import epoch_batches

    batches = epoch_batches(lab.rows.lengths, 16, seed=1, epoch=0)
    seen = np.concatenate([np.array(b) for b in batches])
    assert sorted(seen.tolist()) == list(range(len(lab.rows)))
    assert batches == epoch_batches(lab.rows.lengths, 16, seed=1, epoch=0)
    assert batches != epoch_batches(lab.rows.lengths, 16, seed=1, epoch=1)


def test_the_warm_up_rises_and_the_rate_ends_near_zero() -> None:
    run = dataclasses.replace(RUN, steps=100, warmup=0.1, lr=1.0)
    rates = [run.lr_at(step) for step in range(100)]
    assert rates[9] == pytest.approx(1.0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.02
