"""Blocks below the one that learns keep still: no gradient, no decay, until all have had a turn."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unit.distill.lab import RUN as SHORT
from tests.unit.distill.test_surgery import BERT, GPT2, LLAMA, TEACHERS, make
from toolchain.data.sources import load_task
from toolchain.data.tokenizing import tokenize_split
from toolchain.distill.compose import compose
from toolchain.distill.context import Moment
from toolchain.distill.records import Parts
from toolchain.distill.schedules import Unlock
from toolchain.distill.surgery import RestBelow
from toolchain.distill.teachers import TrainingModel
from toolchain.distill.term import bind
from toolchain.distill.trainer import train
from toolchain.models.build import build_student
from toolchain.models.checkpoint import inspect
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.progress import Null
from toolchain.recipe import Columns

assert BERT.num_hidden_layers == GPT2.n_layer == LLAMA.num_hidden_layers == 4


def part_of(name: str, blocks: str) -> str:
    """Where a parameter stands: in block 0, 1, ..., before them or behind them."""
    if name.startswith(blocks):
        return name.removeprefix(blocks).partition(".")[0]
    return (
        "before"
        if any(word in name for word in ("embeddings", "embed_tokens", "wte", "wpe"))
        else "behind"
    )


def learning(side: TrainingModel) -> set[str]:
    """The parts that learn; a part learns whole or not at all."""
    blocks = side.family.block_prefix(1).removesuffix("0.")
    found: dict[str, set[bool]] = {}
    for name, parameter in side.model.named_parameters():
        found.setdefault(part_of(name, blocks), set()).add(parameter.requires_grad)
    assert all(len(kinds) == 1 for kinds in found.values())
    return {part for part, kinds in found.items() if True in kinds}


@pytest.mark.parametrize("family", TEACHERS)
def test_what_stands_below_the_block_of_the_step_rests(family: str) -> None:
    student = make(*TEACHERS[family])
    operation = RestBelow(Unlock("progressive", ends=0.8)).begin(student, [])
    expected = [
        (0, {"before", "0", "1", "2", "3", "behind"}),
        (19, {"before", "0", "1", "2", "3", "behind"}),
        (20, {"1", "2", "3", "behind"}),
        (45, {"2", "3", "behind"}),
        (79, {"3", "behind"}),
        (80, {"before", "0", "1", "2", "3", "behind"}),
        (99, {"before", "0", "1", "2", "3", "behind"}),
        # A resumed run may be anywhere: nothing is left over from the step before.
        (20, {"1", "2", "3", "behind"}),
    ]
    for step, parts in expected:
        operation.before_step(Moment(step=step, steps=100))
        assert learning(student) == parts, step
    operation.heal()
    assert learning(student) == {"before", "0", "1", "2", "3", "behind"}


class Watch(Null):
    """Keeps the student's weights after every step."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.seen: list[dict[str, Tensor]] = []
        self.look()

    def look(self) -> None:
        self.seen.append({n: p.detach().clone() for n, p in self.model.named_parameters()})

    def advance(self, task: str, done: int, total: int, **figures: object) -> None:  # noqa: ARG002
        self.look()


RUN = dataclasses.replace(
    SHORT,
    name="inter",
    steps=8,
    # So large that a weight which is only decayed would be seen.
    weight_decay=0.5,
    evals=1,
    keep_best=False,
    checkpoint_seconds=1e9,
)


def changed(
    folder: Path, task_folder: Path, work: Path, **options: object
) -> tuple[list[set[str]], TrainingModel]:
    """The parts of the student that each of eight steps changes, two steps a block."""
    found = inspect(str(folder))
    teacher = TrainingModel(
        model=load_model(folder, "classify"), family=found.family, spec=found.spec
    )
    model = build_student(teacher.model, found.family, found.spec, "random", seed=3)
    student = dataclasses.replace(teacher, model=model)
    task = load_task(str(task_folder), columns=Columns(), teacher_labels=None)
    rows = tokenize_split(load_tokenizer(folder), task.train, task, max_tokens=64)
    composed = compose("mobilebert", {"mobilebert": options})
    terms = tuple(bind(t, found.spec, found.spec) for t in composed.stages["inter"])
    watch = Watch(model)
    parts = Parts(surgery=composed.surgery)
    train(student, [teacher], terms, parts, rows, rows, RUN, work, watch)
    blocks = found.family.block_prefix(1).removesuffix("0.")
    pairs = zip(watch.seen, watch.seen[1:], strict=False)
    parts_of = [
        {part_of(name, blocks) for name in old if not torch.equal(old[name], new[name])}
        for old, new in pairs
    ]
    return parts_of, student


def test_mobilebert_changes_one_block_at_a_time(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    parts, student = changed(teacher_folder, task_folder, tmp_path)
    first = {"before", "0"}
    assert parts == [first, first, {"1"}, {"1"}, {"2"}, {"2"}, {"3"}, {"3"}]
    assert all(p.requires_grad for p in student.model.parameters())


def test_without_rest_the_blocks_below_go_on_learning(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    parts, _ = changed(teacher_folder, task_folder, tmp_path, rest=False)
    first = {"before", "0"}
    upper = [first | {"1"}, first | {"1", "2"}, first | {"1", "2", "3"}]
    assert parts == [first, first, *(part for part in upper for _ in range(2))]


def test_stacked_terms_have_no_block_to_rest_for() -> None:
    assert compose("mobilebert", {"mobilebert": {"how": "stacked"}}).surgery is None
    assert compose("mobilebert", {"mobilebert": {"rest": False}}).surgery is None


def test_the_general_stage_ends_with_pre_training_distillation_of_all_blocks() -> None:
    composed = compose("mobilebert", {"mobilebert": {"stage": "general", "blocks": 0.25}})
    terms = {term.name: term for term in composed.stages["general"]}
    assert set(terms) == {f"mobilebert/{n}" for n in ("features", "attention", "soft", "labels")}
    soft, labels = terms["mobilebert/soft"], terms["mobilebert/labels"]
    assert (soft.weight, labels.weight) == (0.5, 0.5)
    layers = terms["mobilebert/features"].schedule
    for progress, of_layers in ((0.0, 1), (0.24, 1), (0.25, 0), (0.9, 0)):
        assert layers(progress) == of_layers
        assert soft.schedule(progress) == labels.schedule(progress) == 1 - of_layers
    assert composed.surgery == RestBelow(Unlock("progressive", 0.25), stages=("general",))


def test_without_pre_training_distillation_no_language_head_is_read() -> None:
    options = {"stage": "general", "pretraining": False}
    composed = compose("mobilebert", {"mobilebert": options})
    kinds = {term.extract.kind for term in composed.stages["general"]}
    assert kinds == {"hidden", "attn_scores"}
    assert composed.surgery == RestBelow(Unlock("progressive", 1.0), stages=("general",))
