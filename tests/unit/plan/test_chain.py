"""Plans with several teachers and with assistants: what is resolved, and what is refused."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import make_teacher
from toolchain.data.sources import Split, TaskData, load_task
from toolchain.distill.aggregation import Correctness, Mean
from toolchain.distill.compose import compose
from toolchain.errors import UsageError
from toolchain.models.checkpoint import inspect
from toolchain.models.tokenizers import same_tokenizer
from toolchain.plan import Plan, make_plan
from toolchain.plan.chain import source_of, suggested
from toolchain.plan.teachers import trained_together
from toolchain.plan.tokenizers import with_tokenizers
from toolchain.plan.training import stage_plans
from toolchain.recipe import Columns, load_recipe
from toolchain.spec import ModelSpec

BASE = ModelSpec(
    family="bert", layers=12, width=768, heads=12, ffn=3072, vocab=30522, max_tokens=512,
    num_labels=2,
)  # fmt: skip


ROWS = Split(texts=("a b",), texts_b=None, labels=(), file="text.txt")
TEXT = TaskData(
    name="text", task="causal_lm", kind="single", labels=(), named=False, train=ROWS, dev=ROWS,
    test=None, digest="", files=(), notes=(),
)  # fmt: skip


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deeper classifier with the same tokenizer and labels."""
    return make_teacher(tmp_path_factory.mktemp("second"), head=True, seed=1, num_hidden_layers=5)


def planned(teacher: Path, task: Path, *overrides: str) -> Plan:
    options = {"teacher": str(teacher), "data": {"path": str(task)}, "student": {"layers": 2}}
    return make_plan(load_recipe(None, options, ["threads=1", *overrides]), task / "out")


def refused(teacher: Path, task: Path, *overrides: str) -> str:
    with pytest.raises(UsageError) as refusal:
        planned(teacher, task, *overrides)
    return str(refusal.value)


def test_every_soft_term_is_bound_to_every_teacher_and_labels_once(
    teacher_folder: Path, second: Path, task_folder: Path
):
    plan = planned(teacher_folder, task_folder, "method=kd", f"teachers=[{second}]")
    (stage,) = plan.stages
    assert [b.name for b in stage.terms] == ["kd/soft", "kd/soft#2", "kd/labels"]
    assert repr(stage.parts.aggregation) == "Mean()"
    assert [spec.layers for spec in plan.teacher_specs] == [4, 5]


def test_teachers_of_unequal_size_are_ordered_in_the_plan(
    teacher_folder: Path, second: Path, task_folder: Path
):
    plan = planned(second, task_folder, "method=uncertainty", f"teachers=[{teacher_folder}]")
    assert "order=(1, 0)" in repr(plan.stages[0].parts.aggregation)


@pytest.mark.parametrize("method", ["tmkd", "mt_bert", "rl_kd", "uncertainty"])
def test_methods_for_several_teachers_refuse_one(
    method: str, teacher_folder: Path, task_folder: Path
):
    said = refused(teacher_folder, task_folder, f"method={method}")
    assert f"method {method!r} needs 2 teachers, the recipe names 1" in said
    assert "teachers=[DIR, ...]" in said


@pytest.fixture(scope="module")
def cased(second: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deeper classifier with another tokenizer."""
    other = Path(shutil.copytree(second, tmp_path_factory.mktemp("cased") / "other"))
    file = other / "tokenizer.json"
    content = json.loads(file.read_text())
    content["normalizer"]["lowercase"] = not content["normalizer"]["lowercase"]
    file.write_text(json.dumps(content))
    return other


def test_tokenizers_are_named_by_the_first_model_that_has_them(
    teacher_folder: Path, second: Path, cased: Path, task_folder: Path
):
    plan = planned(teacher_folder, task_folder, "method=kd", f"teachers=[{second}, {cased}]")
    names = [spec.tokenizer for spec in plan.teacher_specs]
    assert names == [str(teacher_folder), str(teacher_folder), str(cased)]
    assert plan.student.tokenizer == str(teacher_folder)
    assert f"teacher {cased} has another tokenizer than the student" in " ".join(plan.reasons)
    assert str(second) not in " ".join(plan.reasons)


def test_terms_on_tokens_refuse_a_second_teacher_with_another_tokenizer_by_name(
    teacher_folder: Path, second: Path, cased: Path, task_folder: Path
):
    planned(teacher_folder, task_folder, "method=tinybert", f"teachers=[{second}]")
    said = refused(teacher_folder, task_folder, "method=tinybert", f"teachers=[{cased}]")
    assert f"the student reads the tokens of {teacher_folder}, the teacher those of {cased}" in said
    assert "term 'tinybert/" in said


def test_an_assistant_reads_what_its_teacher_reads_and_the_student_its_own(
    teacher_folder: Path, cased: Path, task_folder: Path
):
    options = {"teacher": str(cased), "data": {"path": str(task_folder)}}
    options |= {"student": {"path": str(teacher_folder)}}
    settings = ["threads=1", "method=takd", "assistants=[{layers: 5, ffn: 60, init: random}]"]
    plan = make_plan(load_recipe(None, options, settings), task_folder / "out")
    assert plan.assistants[0].spec.tokenizer == str(cased)
    assert plan.stages[0].terms[0].specs[1].tokenizer == str(cased)
    assert plan.student.tokenizer == str(teacher_folder)


def test_teachers_weighed_token_by_token_need_the_students_tokens():
    decoder = replace(BASE, causal=True, task="causal_lm", num_labels=0, tokenizer="a")
    other = replace(decoder, tokenizer="b")
    recipe = load_recipe(None, {"teacher": "a", "data": {"path": "d"}}, ["max_steps=1"])
    for weigh, kin in ((Mean(), False), (Correctness(), True), (Correctness(), False)):
        weighed = replace(compose("uld", {}), aggregation=weigh)
        teachers = (decoder, decoder if kin else other)
        made = partial(stage_plans, recipe, weighed, decoder, teachers, TEXT, (), [], lm_heads=True)
        if kin or not weigh.reads_teachers:
            assert made()[0].parts.aggregation == weigh
            continue
        with pytest.raises(UsageError) as refusal:
            made()
        assert "correctness: it weighs the teachers token by token" in str(refusal.value)
        assert "tokens of a, the teacher those of b" in str(refusal.value)


def test_bare_teachers_with_different_tokenizers_share_no_head(
    encoder_folder: Path, task_folder: Path, tmp_path: Path
):
    other = Path(shutil.copytree(encoder_folder, tmp_path / "other"))
    file = other / "tokenizer.json"
    file.write_text(file.read_text().replace('"lowercase": true', '"lowercase": false'))
    bare = with_tokenizers([inspect(str(folder)) for folder in (encoder_folder, other)])
    task = load_task(str(task_folder), columns=Columns(), teacher_labels=None)
    specs = [checkpoint.spec for checkpoint in bare]
    with pytest.raises(UsageError, match="on the same tokens") as refusal:
        trained_together(compose("mt_bert", {}), bare, specs, task, [])
    assert f"{encoder_folder} and {other} have different tokenizers" in str(refusal.value)
    kin = [replace(spec, tokenizer="one") for spec in specs]
    assert trained_together(compose("mt_bert", {}), bare, kin, task, [])


def test_settings_of_a_call_do_not_make_another_tokenizer(second: Path, tmp_path: Path):
    other = Path(shutil.copytree(second, tmp_path / "other"))
    file = other / "tokenizer.json"
    content = json.loads(file.read_text())
    content["truncation"] = {"max_length": 9, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(content))
    assert same_tokenizer(second, other)
    content["model"]["vocab"]["zebra"] = max(content["model"]["vocab"].values()) + 1
    file.write_text(json.dumps(content))
    assert not same_tokenizer(second, other)


def test_a_folder_with_a_vocabulary_alone_is_compared_by_it(second: Path, tmp_path: Path):
    other = Path(shutil.copytree(second, tmp_path / "other"))
    (other / "tokenizer.json").unlink()
    assert same_tokenizer(second, other)
    with (other / "vocab.txt").open("a") as file:
        file.write("zebra\n")
    assert not same_tokenizer(second, other)


def test_teachers_with_different_labels_are_refused_by_name(
    teacher_folder: Path, second: Path, task_folder: Path, tmp_path: Path
):
    other = Path(shutil.copytree(second, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["id2label"] = {"0": "music", "1": "light", "2": "heat"}
    config["label2id"] = {"music": 0, "light": 1, "heat": 2}
    (other / "config.json").write_text(json.dumps(config))
    said = refused(teacher_folder, task_folder, f"teachers=[{other}]")
    assert f"teachers {teacher_folder} and {other} have different labels" in said
    assert "heat, light, music and music, light, heat" in said


def test_a_teacher_named_twice_is_refused(teacher_folder: Path, task_folder: Path):
    assert "named twice" in refused(teacher_folder, task_folder, f"teachers=[{teacher_folder}]")


@pytest.mark.parametrize("method", ["takd", "dgkd"])
def test_a_chain_without_an_assistant_is_refused_with_its_size(
    method: str, teacher_folder: Path, task_folder: Path
):
    said = refused(teacher_folder, task_folder, f"method={method}")
    assert f"method {method!r} needs an assistant between teacher and student" in said
    assert "assistants=[{layers: 3}]" in said
    assert "geometric mean" in said
    # What was advised is accepted.
    assert planned(teacher_folder, task_folder, f"method={method}", "assistants=[{layers: 3}]")


def test_where_nothing_lies_between_no_assistant_is_advised(
    teacher_folder: Path, task_folder: Path
):
    said = refused(teacher_folder, task_folder, "method=takd", "student.layers=3")
    assert "no shape lies between" in said


def test_the_size_advised_is_nearest_the_geometric_mean():
    small = BASE.reshaped(layers=3, width=384)
    middle = suggested(BASE, small)
    assert middle is not None
    wanted = (BASE.params() * small.params()) ** 0.5
    every = [BASE.reshaped(layers=n, width=w) for n in range(3, 13) for w in (384, 768)]
    between = [s for s in every if small.params() < s.params() < BASE.params()]
    assert abs(middle.params() / wanted - 1) <= min(abs(s.params() / wanted - 1) for s in between)
    assert suggested(BASE, BASE.reshaped(layers=11)) is None


def test_in_a_chain_each_model_has_one_teacher_and_with_all_guides_every_model_before_it(
    teacher_folder: Path, task_folder: Path
):
    shapes = "assistants=[{layers: 3}]"
    takd = planned(teacher_folder, task_folder, "method=takd", shapes)
    dgkd = planned(teacher_folder, task_folder, "method=dgkd", shapes)
    (assistant,) = dgkd.assistants
    assert [b.name for b in takd.stages[0].terms] == ["takd/soft", "takd/labels"]
    names = ["dgkd/soft", "dgkd/soft#2", "dgkd/labels"]
    assert [b.name for b in dgkd.stages[0].terms] == names
    assert [b.name for b in assistant.stages[0].terms] == ["dgkd/soft", "dgkd/labels"]
    # Coins are thrown between guides: the first assistant's only one is never dropped.
    assert assistant.stages[0].parts.aggregation is None
    assert repr(dgkd.stages[0].parts.aggregation) == "BernoulliKeep(survival=0.75)"


def test_any_method_chains_over_assistants(teacher_folder: Path, task_folder: Path):
    plan = planned(teacher_folder, task_folder, "method=pkd", "assistants=[{layers: 3}]")
    (assistant,) = plan.assistants
    pairs = [b.layer_map.pairs for b in assistant.stages[0].terms if "patient" in b.name]
    assert pairs == [((1, 1), (2, 3))]
    # The student's layers are matched to those of the assistant, not of the teacher.
    pairs = [b.layer_map.pairs for b in plan.stages[0].terms if "patient" in b.name]
    assert pairs == [((1, 2),)]


def test_a_method_for_several_teachers_makes_no_chain(
    teacher_folder: Path, second: Path, task_folder: Path
):
    said = refused(
        teacher_folder,
        task_folder,
        "method=mt_bert",
        f"teachers=[{second}]",
        "assistants=[{layers: 3}]",
    )
    assert "behind an assistant each student has one" in said


def test_assistants_shrink_from_teacher_to_student(teacher_folder: Path, task_folder: Path):
    said = refused(teacher_folder, task_folder, "method=takd", "assistants=[{layers: 2}]")
    assert "assistants[0]" in said
    assert "more than the student (23,395)" in said
    said = refused(teacher_folder, task_folder, "method=takd", "assistants=[{layers: 6}]")
    assert "assistants[0]: it has 6 layers, the teacher only 4 to copy" in said


def test_an_assistant_is_a_shape(teacher_folder: Path, task_folder: Path):
    assert "needs layers or hidden" in refused(teacher_folder, task_folder, "assistants=[{}]")
    said = refused(teacher_folder, task_folder, f"assistants=[{{path: {teacher_folder}}}]")
    assert "an assistant is a shape" in said


def test_a_narrow_student_starts_from_the_assistant_whose_layers_fit(
    teacher_folder: Path, task_folder: Path
):
    plan = planned(
        teacher_folder,
        task_folder,
        "method=kd+minilm_v2",
        "student.layers=1",
        "student.hidden=16",
        "assistants=[{layers: 3, hidden: 16}]",
    )
    assert (plan.assistants[0].init, plan.assistants[0].source) == ("random", 0)
    assert (plan.init, plan.source) == ("teacher_uniform", 1)
    assert plan.copied.pairs == ((1, 3),)


def test_the_teacher_comes_first_where_both_fit():
    chain = [BASE, BASE.reshaped(layers=6), BASE.reshaped(layers=6, width=384)]
    assert source_of(BASE.reshaped(layers=3), chain) == 0
    assert source_of(BASE.reshaped(layers=3, width=384), chain) == 2
    assert source_of(BASE.reshaped(layers=3, width=256), chain) == 0


def test_bare_teachers_are_fine_tuned_each_by_itself_unless_the_method_joins_them(
    encoder_folder: Path, task_folder: Path, tmp_path: Path
):
    other = make_teacher(tmp_path / "other", head=False, seed=3, num_hidden_layers=3)
    alone = planned(encoder_folder, task_folder, "method=kd", f"teachers=[{other}]")
    assert alone.finetune
    assert alone.others[0].finetune
    assert not alone.together
    joined = planned(encoder_folder, task_folder, "method=mt_bert", f"teachers=[{other}]")
    assert joined.together
    assert any("together behind one head" in reason for reason in joined.reasons)


def test_bare_teachers_of_unequal_width_cannot_share_a_head(
    encoder_folder: Path, task_folder: Path, tmp_path: Path
):
    wide = make_teacher(tmp_path / "wide", head=False, hidden_size=48)
    said = refused(encoder_folder, task_folder, "method=mt_bert", f"teachers=[{wide}]")
    assert f"{encoder_folder} is a bert of width 32, {wide} a bert of 48" in said
    assert "toolchain finetune" in said


def test_settings_for_fine_tuning_serve_the_teachers_that_need_it(
    teacher_folder: Path, encoder_folder: Path, task_folder: Path
):
    plan = planned(
        teacher_folder,
        task_folder,
        "method=mt_bert",
        f"teachers=[{encoder_folder}]",
        "finetune.epochs=2",
    )
    assert plan.finetune is None
    assert plan.others[0].finetune
    assert plan.others[0].finetune.steps == 30
    assert not plan.together


def test_a_saved_recipe_makes_the_same_plan(teacher_folder: Path, second: Path, task_folder: Path):
    plan = planned(
        teacher_folder,
        task_folder,
        "method=dgkd",
        f"teachers=[{second}]",
        "assistants=[{layers: 3}]",
    )
    again = make_plan(plan.recipe, task_folder / "out")
    assert again.recipe == plan.recipe
    first, second_time = plan.as_json(), again.as_json()
    for key in ("teachers", "assistants", "student", "init", "layer_map", "stages", "baseline"):
        assert first[key] == second_time[key], key
