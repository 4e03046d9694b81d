"""Students of every family: what is copied, what is new, and what does not fit."""

from pathlib import Path

import pytest
import torch

from tests.unit.models import zoo
from toolchain.errors import UsageError
from toolchain.models.build import build_student
from toolchain.models.checkpoint import inspect
from toolchain.models.family import family_of
from toolchain.models.initialise import Init
from toolchain.models.loading import save_model
from toolchain.spec import ModelSpec, Task

COPIES: list[tuple[Init, tuple[int, ...]]] = [
    ("teacher_uniform", (2, 4)),
    ("teacher_first_k", (1, 2)),
]


def spec_of(name: str, task: Task) -> ModelSpec:
    config = zoo.config_of(name, task)
    labels = {"classify": 3, "multi_label": 3, "tag": 3, "regress": 1}.get(task, 0)
    return family_of(config.model_type).spec(config.to_dict(), task=task, num_labels=labels)


@pytest.mark.parametrize(("name", "task"), zoo.HEADS)
@pytest.mark.parametrize(("init", "layers"), COPIES)
def test_chosen_blocks_and_all_around_them_are_copied(
    name: str, task: Task, init: Init, layers: tuple[int, ...], tmp_path: Path
) -> None:
    teacher = zoo.make(name, task)
    family = family_of(teacher.config.model_type)
    spec = spec_of(name, task).reshaped(layers=2)
    student = build_student(teacher, family, spec, init, seed=0)
    assert type(student) is type(teacher)
    assert zoo.parameters(student) == spec.params()
    blocks = family.block_prefix(1).removesuffix("0.")
    if task == "encode":
        blocks = blocks.removeprefix(f"{family.backbone}.")
    mine, theirs = student.state_dict(), teacher.state_dict()
    for key, value in mine.items():
        source = key
        if key.startswith(blocks):
            number, rest = key.removeprefix(blocks).split(".", 1)
            source = f"{blocks}{layers[int(number)] - 1}.{rest}"
        assert torch.equal(value, theirs[source]), key
    with torch.no_grad():
        assert torch.isfinite(student(**zoo.batch(name))[0]).all()
    save_model(student, tmp_path)
    zoo.tokenizer().save_pretrained(tmp_path)
    assert inspect(str(tmp_path)).spec == spec or task == "encode"


@pytest.mark.parametrize("name", zoo.SETTINGS)
def test_as_many_layers_as_the_teacher_has_give_the_teacher(name: str) -> None:
    teacher = zoo.make(name)
    family = family_of(teacher.config.model_type)
    student = build_student(teacher, family, spec_of(name, "classify"), "teacher_uniform", seed=0)
    inputs = zoo.batch(name)
    with torch.no_grad():
        torch.testing.assert_close(student(**inputs).logits, teacher(**inputs).logits)


@pytest.mark.parametrize("name", zoo.SETTINGS)
def test_a_narrower_student_starts_at_random_from_the_seed(name: str) -> None:
    teacher = zoo.make(name)
    family = family_of(teacher.config.model_type)
    spec = spec_of(name, "classify").reshaped(layers=2, width=24)
    first, again, other = (
        build_student(teacher, family, spec, "random", seed=s).state_dict() for s in (1, 1, 2)
    )
    query = f"{family.block_prefix(1)}{family.query}.weight"
    assert torch.equal(first[query], again[query])
    assert not torch.equal(first[query], other[query])
    assert sum(p.numel() for p in build_student(
        teacher, family, spec, "random", seed=1
    ).parameters()) == spec.params()  # fmt: skip
    with pytest.raises(UsageError, match="the teacher's blocks do not fit into 2 x 24"):
        build_student(teacher, family, spec, "teacher_uniform", seed=0)


def test_grouped_queries_keep_their_ratio_and_still_run() -> None:
    teacher = zoo.make("llama", num_attention_heads=8, num_key_value_heads=2, hidden_size=64)
    family = family_of("llama")
    spec = family.spec(teacher.config.to_dict(), task="classify", num_labels=3)
    assert (spec.heads, spec.kv_heads, spec.key_width) == (8, 2, 16)
    assert str(spec) == "4 x 64 (8 heads on 2, ffn 48)"
    narrow = spec.reshaped(width=32, layers=2)
    assert (narrow.heads, narrow.kv_heads, narrow.key_width) == (8, 2, 8)
    student = build_student(teacher, family, narrow, "random", seed=0)
    keys = student.get_submodule("model.layers.0.self_attn.k_proj")
    assert keys.weight.shape == (8, 32)
    with torch.no_grad():
        assert student(**zoo.batch("llama")).logits.shape == (3, 3)


def test_other_heads_of_the_same_width_do_not_fit() -> None:
    teacher = zoo.make("qwen2")
    spec = spec_of("qwen2", "classify").reshaped(layers=2, heads=2)
    with pytest.raises(UsageError, match="do not fit into 2 x 32"):
        build_student(teacher, family_of("qwen2"), spec, "teacher_first_k", seed=0)


def test_windows_of_attention_follow_their_blocks() -> None:
    kinds = ["full_attention", "full_attention", "full_attention", "sliding_attention"]
    teacher = zoo.make("qwen3", layer_types=kinds, use_sliding_window=True, sliding_window=4)
    spec = spec_of("qwen3", "classify").reshaped(layers=2)
    for init, expected in (("teacher_uniform", kinds[1::2]), ("teacher_first_k", kinds[:2])):
        student = build_student(teacher, family_of("qwen3"), spec, init, seed=0)  # type: ignore[arg-type]
        assert student.config.layer_types == expected
    deeper = build_student(teacher, family_of("qwen3"), spec.reshaped(layers=6), "random", seed=0)
    assert len(deeper.config.layer_types) == 6
