"""Several teachers in the one loop, on real tiny models: heads that fold, policies that resume."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import make_teacher
from tests.unit.distill.lab import RUN as SHORT
from tests.unit.distill.lab import Killed, StopAt, rows_of
from toolchain.data.batching import Rows, collate
from toolchain.distill.compose import compose
from toolchain.distill.evaluate import logits_of_rows
from toolchain.distill.records import Parts, Trained
from toolchain.distill.surgery import MultiHead
from toolchain.distill.surgery.mean_heads import MeanHeads
from toolchain.distill.surgery.multi_head import folded
from toolchain.distill.teachers import TrainingModel
from toolchain.distill.term import bind
from toolchain.distill.trainer import train
from toolchain.models.build import build_student
from toolchain.models.checkpoint import inspect
from toolchain.models.loading import load_classifier
from toolchain.progress import Null
from toolchain.spec import ModelSpec

RUN = dataclasses.replace(SHORT, steps=10, lr=2e-3, evals=2)


@dataclasses.dataclass
class Lab:
    folders: tuple[Path, Path]
    rows: Rows
    dev: Rows

    def teachers(self) -> list[TrainingModel]:
        found = [inspect(str(folder)) for folder in self.folders]
        return [
            TrainingModel(model=load_classifier(c.root), family=c.family, spec=c.spec)
            for c in found
        ]

    def student(self) -> TrainingModel:
        first = self.teachers()[0]
        spec = first.spec.reshaped(layers=2)
        model = build_student(first.model, first.family, spec, "teacher_first_k", seed=0)
        return TrainingModel(model=model, family=first.family, spec=spec)

    def train(
        self, method: str, work: Path, progress: Null | None = None, **options: object
    ) -> tuple[Trained, TrainingModel]:
        student, teachers = self.student(), self.teachers()
        specs: list[ModelSpec] = [teacher.spec for teacher in teachers]
        composition = compose(method, {method: options} if options else {})
        terms = tuple(
            bind(term, student.spec, spec, k)
            for term in composition.stages["pred"]
            for k, spec in enumerate(specs)
            if k == 0 or not term.extract.is_gold
        )
        weigh = composition.aggregation
        parts = Parts(
            aggregation=weigh.resolve(student.spec, specs) if weigh else None,
            surgery=composition.surgery,
        )
        done = train(
            student, teachers, terms, parts, self.rows, self.dev, RUN, work, progress or Null()
        )
        return done, student


@pytest.fixture(scope="module")
def lab(teacher_folder: Path, task_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Two teachers of different depth."""
    deeper = make_teacher(tmp_path_factory.mktemp("deeper"), head=True, seed=1, num_hidden_layers=5)
    train, dev = (rows_of(teacher_folder, task_folder, name) for name in ("train", "dev"))
    return Lab((teacher_folder, deeper), train, dev)


def weights(model: TrainingModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.model.state_dict().items()}


@pytest.mark.parametrize("method", ["tmkd", "mt_bert", "rl_kd", "uncertainty", "dgkd"])
def test_a_run_stopped_anywhere_ends_as_if_it_had_not(lab: Lab, tmp_path: Path, method: str):
    whole, expected = lab.train(method, tmp_path / "whole")
    with pytest.raises(Killed):
        lab.train(method, tmp_path / "cut", StopAt(5))
    resumed, found = lab.train(method, tmp_path / "cut")
    first, second = weights(expected), weights(found)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert resumed.points == whole.points
    assert resumed.evals == whole.evals


def test_the_mean_of_the_heads_is_the_folded_head(lab: Lab):
    student = lab.student()
    plain = set(student.model.state_dict())
    under_way = MultiHead().begin(student, lab.teachers())
    heads = student.model.get_submodule("classifier")
    assert isinstance(heads, MeanHeads)
    assert len(heads.linears()) == 3
    with torch.no_grad():
        for number, head in enumerate(heads.linears()):
            generator = torch.Generator().manual_seed(number)
            head.weight += torch.randn(head.weight.shape, generator=generator)
            head.bias += torch.randn(head.bias.shape, generator=generator)
    before = logits_of_rows(student.model, lab.dev)
    batch = collate(lab.dev, list(range(8)))
    pooled: list[torch.Tensor] = []
    with heads.register_forward_pre_hook(lambda _, args: pooled.append(args[0])), torch.no_grad():
        student.model(**batch.inputs)
    each = torch.stack([head(pooled[0]) for head in heads.linears()]).mean(0)
    one = folded(heads)
    torch.testing.assert_close(one(pooled[0]), each, atol=1e-6, rtol=0)
    under_way.heal()
    assert set(student.model.state_dict()) == plain
    after = logits_of_rows(student.model, lab.dev)
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_a_student_trained_with_extra_heads_is_an_ordinary_model_and_its_best_one(
    lab: Lab, tmp_path: Path
):
    done, student = lab.train("tmkd", tmp_path)
    assert type(student.model.get_submodule("classifier")) is torch.nn.Linear
    logits = logits_of_rows(student.model, lab.dev)
    right = float((logits.argmax(1) == lab.dev.labels).mean())
    assert right == pytest.approx(done.best_metric)


def test_every_head_learns_from_its_own_teacher(lab: Lab):
    """Gradients: head k gets one from term k alone."""
    from toolchain.distill.capture import Recorder
    from toolchain.distill.context import Context
    from toolchain.distill.distiller import Distiller
    from toolchain.distill.extract import Request
    from toolchain.distill.seen import Seen

    student, teachers = lab.student(), lab.teachers()
    MultiHead().begin(student, teachers)
    term = next(t for t in compose("tmkd", {}).stages["pred"] if t.name.endswith("heads"))
    second = bind(term, student.spec, teachers[1].spec, 1)
    assert second.requests("student") == {Request("head", 2)}
    batch = collate(lab.rows, list(range(4)))
    with Recorder(
        student.model, student.family, student.spec, second.requests("student")
    ) as recorder:
        known = recorder.take(student.model(**batch.inputs).logits)
    with torch.no_grad():
        theirs = [t.model(**batch.inputs).logits for t in teachers]
    from toolchain.distill.capture import Captures

    captures = tuple(Captures({Request("logits"): z}, 4) for z in theirs)
    context = Context(mask_BN=batch.mask_BN, labels_P=batch.labels)
    value = Distiller((second,))({"plain": Seen(known, captures, context)}, {second.name: 4.0})[
        second.name
    ]
    value.backward()
    heads = student.model.get_submodule("classifier")
    assert isinstance(heads, MeanHeads)
    learning = [head.weight.grad is not None for head in heads.linears()]
    assert learning == [False, False, True]
    expected = (heads.linears()[2](known_pooled(student, batch)) - theirs[1]).square().mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def known_pooled(student: TrainingModel, batch) -> torch.Tensor:
    kept: list[torch.Tensor] = []
    heads = student.model.get_submodule("classifier")
    with heads.register_forward_pre_hook(lambda _, args: kept.append(args[0])), torch.no_grad():
        student.model(**batch.inputs)
    return kept[0]


def test_a_policy_learns_beside_the_student_and_its_reward_is_logged(lab: Lab, tmp_path: Path):
    from safetensors import safe_open

    done, _ = lab.train("rl_kd", tmp_path, warmup=0.0)
    assert all("policy/reward" in point["parts"] for point in done.points)
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        names = [name for name in file.keys() if "aggregation" in name]  # noqa: SIM118
        values = {name.rsplit(".", 1)[1]: file.get_tensor(name) for name in names}
    assert values["weight"].abs().max() > 0
    assert int(values["observed"]) == RUN.steps


def test_during_its_warm_up_a_policy_stays_as_it_was(lab: Lab, tmp_path: Path):
    from safetensors import safe_open

    lab.train("rl_kd", tmp_path, warmup=0.99)
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        (name,) = [n for n in file.keys() if n.endswith("aggregation.weight")]  # noqa: SIM118
        assert file.get_tensor(name).abs().max() == 0


def test_a_language_model_gets_no_head_per_teacher():
    from toolchain.distill.shapes import Unfit

    spec = ModelSpec(
        family="bert", layers=2, width=24, heads=2, ffn=48, vocab=50, max_tokens=32, task="mask_lm"
    )
    with pytest.raises(Unfit, match="a vocabulary wide"):
        MultiHead().check(spec, spec)
