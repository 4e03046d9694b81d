"""What a study tries: one thing at a time, and what a teacher does not allow is listed."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from toolchain.errors import UsageError
from toolchain.recipe import load_recipe
from toolchain.study.asked import AXES, AxisName
from toolchain.study.design import BASE, LABELS, Design, make_design, recipe_of
from toolchain.study.run import _part


def designed(
    teacher: Path, task: Path, *axes: AxisName, student: dict[str, Any] | None = None, **more: Any
) -> Design:
    values = {"teacher": str(teacher), "data": {"path": str(task)}, **more}
    values["student"] = student or {"layers": 2}
    return make_design(load_recipe(None, values, []), axes or AXES, task / "out")


def difference(design: Design, key: str, than: str = BASE) -> set[str]:
    one, other = (asdict(design.variants[k].setting) for k in (key, than))
    return {name for name in one if one[name] != other[name]}


def test_every_axis_varies_one_thing(teacher_folder: Path, task_folder: Path) -> None:
    design = designed(teacher_folder, task_folder)
    assert [axis.name for axis in design.axes] == list(AXES)
    varied = {"knowledge": "knowledge", "initialisation": "init", "matching": "match"}
    varied["size"] = "layers"
    for axis in design.axes:
        reference, *others = [choice.variant for choice in axis.choices]
        for key in others:
            changed = difference(design, key, reference)
            if axis.name == "shape":
                assert changed == {"layers", "hidden", "heads", "ffn", "projected"}
                own, base = (design.variants[k].plan.student.params() for k in (key, BASE))
                assert abs(own / base - 1) < 0.1
            else:
                assert changed == {varied[axis.name]}
    assert not design.refused
    assert [t.term.extract.kind for t in design.variants[LABELS].plan.stages[0].terms] == ["labels"]


def test_shapes_of_another_width_are_held_against_the_base_from_a_random_start(
    teacher_folder: Path, task_folder: Path
) -> None:
    design = designed(teacher_folder, task_folder, "shape")
    (axis,) = design.axes
    assert {design.variants[c.variant].setting.init for c in axis.choices} == {"random"}
    assert difference(design, axis.choices[0].variant) == {"init"}


def test_what_the_plan_refuses_is_listed_with_its_sentence(
    teacher_folder: Path, task_folder: Path
) -> None:
    student = {"layers": 2, "hidden": 24, "heads": 3}
    design = designed(teacher_folder, task_folder, "knowledge", "initialisation", student=student)
    why = {refusal.choice: refusal.why for refusal in design.refused}
    assert set(why) == {"attention scores", "teacher_uniform", "teacher_first_k"}
    assert "4" in why["attention scores"]
    assert "heads" in why["attention scores"]
    assert "copies whole layers" in why["teacher_uniform"]
    # Of its starts only the random one is left, so that nothing can be compared.
    assert [axis.name for axis in design.axes] == ["knowledge"]
    assert design.base.setting.init == "random"
    assert design.base.setting.projected


def test_a_choice_that_is_another_by_name_alone_is_not_trained_twice(
    teacher_folder: Path, task_folder: Path
) -> None:
    design = designed(teacher_folder, task_folder, "matching", student={"layers": 1})
    why = {refusal.choice: refusal.why for refusal in design.refused}
    assert "the same as uniform" in why["last"]
    (axis,) = design.axes
    assert [choice.name for choice in axis.choices] == ["uniform", "first"]


def test_all_variants_of_a_seed_see_the_same_rows(teacher_folder: Path, task_folder: Path) -> None:
    design = designed(teacher_folder, task_folder, "knowledge", train={"batch_size": 8})
    base, labels = (design.variants[key].plan for key in (BASE, LABELS))
    one, other, next_seed = (
        _part(base, steps=5, seed=1),
        _part(labels, steps=5, seed=1),
        _part(base, steps=5, seed=2),
    )
    assert len(one.task.train) == len(one.task.train.labels) == 40
    assert one.task.train == other.task.train
    assert one.task.train != next_seed.task.train
    assert one.task.digest not in (base.task.digest, next_seed.task.digest)
    assert one.task.dev == base.task.dev


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"method": "kd"}, "method"),
        ({"student": {"layers": 2, "init": "random"}}, "student.init"),
        ({"assistants": [{"layers": 3}]}, "assistants"),
    ],
)
def test_what_a_study_decides_itself_is_refused(
    teacher_folder: Path, task_folder: Path, more: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=named) as refused:
        designed(teacher_folder, task_folder, **more)
    assert refused.value.hint == f"drop {named}"


def test_the_recipe_of_a_setting_keeps_what_was_asked_for(
    teacher_folder: Path, task_folder: Path
) -> None:
    design = designed(teacher_folder, task_folder, "matching", train={"lr": 3e-3, "evals": 7})
    recipe = recipe_of(design.asked, design.base.setting)
    assert (recipe.train.lr, recipe.train.evals, recipe.baseline) == (3e-3, 7, True)
    assert recipe.terms[0].match == "uniform"
