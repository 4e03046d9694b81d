"""What a budget pays for: steps first, then fewer seeds, then fewer axes, and it is said."""

from pathlib import Path

import pytest

from toolchain.errors import UsageError
from toolchain.recipe import load_recipe
from toolchain.study.asked import AXES
from toolchain.study.design import BASE, LABELS, Design, make_design
from toolchain.study.schedule import FLOOR, Speed, schedule

SPEED = Speed(step_s=0.1, unit_s=1.0, spent_s=5.0)


@pytest.fixture(scope="module")
def design(teacher_folder: Path, task_folder: Path) -> Design:
    values = {"teacher": str(teacher_folder), "data": {"path": str(task_folder)}}
    recipe = load_recipe(None, {**values, "train": {"epochs": 100.0}}, ["student.layers=2"])
    return make_design(recipe, AXES, task_folder / "out")


def test_steps_grow_with_the_budget_and_end_where_compress_would(design: Design) -> None:
    short, long = (schedule(design, SPEED, budget_s=b, seeds=3) for b in (300, 600))
    assert FLOOR <= short.steps < long.steps
    assert 250 < short.estimate_s <= 300
    assert short.notes == ()
    plenty = schedule(design, SPEED, budget_s=1e6, seeds=3)
    assert plenty.steps == design.base.plan.stages[-1].steps
    assert "all that compress would train" in plenty.notes[0]


def test_seeds_are_given_up_before_axes_and_axes_from_the_last(design: Design) -> None:
    fewer = schedule(design, SPEED, budget_s=100, seeds=3)
    assert (fewer.axes, fewer.seeds) == (AXES, 2)
    assert fewer.notes[0].startswith("2 of 3 seeds")
    less = schedule(design, SPEED, budget_s=45, seeds=3)
    assert less.seeds == 1
    assert less.axes == AXES[: len(less.axes)]
    assert 0 < len(less.axes) < len(AXES)
    assert f"left out for want of time: {', '.join(AXES[len(less.axes) :])}" in less.notes
    assert {BASE, LABELS} <= set(less.variants)


def test_the_base_and_labels_alone_are_the_last_to_stay(design: Design) -> None:
    least = schedule(design, SPEED, budget_s=14, seeds=3)
    assert least.axes == ()
    assert set(least.variants) == {BASE, LABELS}
    with pytest.raises(UsageError, match="too short"):
        schedule(design, SPEED, budget_s=10, seeds=3)
