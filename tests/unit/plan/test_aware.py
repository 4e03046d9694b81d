"""Training for int8 in a plan: how long it would be, and why it cannot be, before anything runs."""

from pathlib import Path

import pytest

from toolchain.cli.showing import show_plan
from toolchain.distill.surgery import FakeInt8
from toolchain.errors import UsageError
from toolchain.plan import Plan, make_plan
from toolchain.plan.aware import aware_stage
from toolchain.recipe import load_recipe


def planned(teacher: Path, task: Path, *overrides: str) -> Plan:
    options = {"teacher": str(teacher), "data": {"path": str(task)}, "student": {"layers": 2}}
    words = ["threads=1", *overrides]
    return make_plan(load_recipe(None, options, words), task / "out")


def test_by_default_it_is_planned_for_a_miss_and_costs_nothing_yet(
    teacher_folder: Path, task_folder: Path
) -> None:
    plan = planned(teacher_folder, task_folder, "method=kd", "train.lr=2e-4")
    assert plan.aware is not None
    # 480 rows in batches of 32, once, at half the rate.
    assert (plan.aware.always, plan.aware.steps, plan.aware.lr) == (False, 15, 1e-4)
    assert [stage.name for stage in plan.stages] == ["pred"]
    assert "aware     only if int8 misses a gate: 15 steps more, lr 0.0001" in show_plan(plan)
    assert plan.as_json()["aware"]["when"] == "int8 misses a gate"
    stage = aware_stage(plan, FakeInt8())
    assert stage.name == "aware"
    assert stage.terms == plan.stages[-1].terms
    assert stage.keep_best


def test_never_and_the_cap_on_steps_are_heeded(teacher_folder: Path, task_folder: Path) -> None:
    assert planned(teacher_folder, task_folder, "quantize.aware=never").aware is None
    plan = planned(
        teacher_folder, task_folder, "quantize.aware=always", "quantize.epochs=9", "max_steps=7"
    )
    assert plan.aware is not None
    assert (plan.aware.always, plan.aware.steps) == (True, 7)


def test_a_run_without_int8_says_nothing_of_it(teacher_folder: Path, task_folder: Path) -> None:
    plan = planned(teacher_folder, task_folder, "precisions=[fp32]")
    assert plan.aware is None
    assert not any("quantisation-aware" in reason for reason in plan.reasons)


def test_terms_that_learned_a_projection_are_dropped(
    teacher_folder: Path, task_folder: Path
) -> None:
    plan = planned(
        teacher_folder, task_folder, "method=kd",
        "terms=[{name: close, knowledge: hidden, match: last, transform: [project], "
        "objective: mse}]",
    )  # fmt: skip
    names = [bound.name for bound in aware_stage(plan, FakeInt8()).terms]
    assert "close" in [bound.name for bound in plan.stages[-1].terms]
    assert names == ["kd/soft", "kd/labels"] or names == ["kd/labels", "kd/soft"]


@pytest.mark.parametrize(("overrides", "said"), [
    (["precisions=[fp32]"], "no int8 file"),
    (["method=theseus"], "replace_modules already changes the student's modules"),
    (["method=diito"], "makes the batches of stage pred"),
    (["placement.student=zero2"], "places them in zero2"),
])  # fmt: skip
def test_where_it_cannot_be_the_plan_says_why_and_always_is_refused(
    teacher_folder: Path, task_folder: Path, overrides: list[str], said: str
) -> None:
    if "zero2" in overrides[0]:
        pytest.importorskip("deepspeed", reason="the extra [deepspeed] is not installed")
    with pytest.raises(UsageError, match="is always, but") as refusal:
        planned(teacher_folder, task_folder, *overrides, "quantize.aware=always")
    assert said in str(refusal.value)
    plan = planned(teacher_folder, task_folder, *overrides)
    assert plan.aware is None
    told = [r for r in plan.reasons if r.startswith("no quantisation-aware distillation")]
    assert [said in reason for reason in told] == ([] if "fp32" in overrides[0] else [True])


def test_several_processes_leave_it_out(
    teacher_folder: Path, task_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    plan = planned(teacher_folder, task_folder, "method=kd")
    assert plan.aware is None
    assert "it trains in one process, and this run has 2" in plan.reasons[-1]
