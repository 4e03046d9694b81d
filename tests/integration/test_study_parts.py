"""What a study does of what it found: the axes together, and seeds that no longer fit."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from toolchain.progress import Null
from toolchain.recipe import load_recipe
from toolchain.rundir import RunFolder, StepLog
from toolchain.study.asked import StudySettings
from toolchain.study.design import BASE, LABELS, TOGETHER, Design, make_design
from toolchain.study.findings import Findings, Sample
from toolchain.study.run import _Study
from toolchain.study.schedule import Schedule, Speed

SPEED = Speed(step_s=0.1, unit_s=1.0, spent_s=5.0)
FIRST, RANDOM = "initialisation-teacher-first-k", "initialisation-random"


@pytest.fixture(scope="module")
def design(teacher_folder: Path, task_folder: Path) -> Design:
    values = {"teacher": str(teacher_folder), "data": {"path": str(task_folder)}, "threads": 1}
    recipe = load_recipe(None, values, ["student.layers=2"])
    axes = ["knowledge", "initialisation", "shape", "size"]
    return make_design(recipe, axes, task_folder / "out")  # type: ignore[arg-type]


def found(design: Design, means: Mapping[str, float], seeds: Sequence[int] = (0, 1)) -> Findings:
    """Findings in which variants have these metrics, and the others the base's."""
    schedule = Schedule(
        steps=2,
        seeds=len(seeds),
        axes=tuple(axis.name for axis in design.axes),
        variants=tuple(design.variants),
        estimate_s=1.0,
        notes=(),
    )
    samples = [
        Sample(
            variant=key,
            seed=seed,
            # Not quite the same for every seed, or there would be nothing to judge by.
            metric=means.get(key, 0.5) + (1e-4 * seed * len(key) if key in means else 0.0),
            seconds=1.0,
            samples_per_s=1.0,
            parameters=9,
        )
        for key in design.variants
        for seed in seeds
    ]
    return Findings(
        asked=design.asked_for(StudySettings(budget_s=60.0)),
        design=design,
        schedule=schedule,
        speed=SPEED,
        samples=tuple(samples),
        command="",
        created="",
        environment={},
        steps=(),
    )


def study(design: Design, output: Path) -> _Study:
    asked = design.asked_for(StudySettings(budget_s=60.0))
    return _Study(asked, design, output, StepLog(RunFolder(output), Null()), 0.0)


def test_what_two_axes_tell_apart_is_trained_together(design: Design, tmp_path: Path) -> None:
    findings = found(design, {LABELS: 0.6, FIRST: 0.7})
    setting = findings.combined
    assert (setting.knowledge, setting.init) == ("labels", "teacher_first_k")
    work = study(design, tmp_path)
    tried = work._together(findings)
    assert set(work.log.done) == {"together-0", "together-1"}
    assert set(tried.by_variant[TOGETHER]) == {0, 1}
    assert tried.compared[-1][0].name == "together"
    # Trained for two steps, it is far below the figures made up above.
    tried = replace(
        tried, samples=tuple(replace(s, metric=0.1 + s.seed / 100) if s.variant == TOGETHER else s
                             for s in tried.samples)
    )  # fmt: skip
    assert tried.setting == design.base.setting
    better = tuple(
        replace(s, metric=0.9 + s.seed / 1e4) if s.variant == TOGETHER else s for s in tried.samples
    )
    assert replace(tried, samples=better).setting == setting


def test_one_axis_alone_needs_no_further_training(design: Design, tmp_path: Path) -> None:
    findings = found(design, {LABELS: 0.6})
    assert study(design, tmp_path)._together(findings) is findings
    assert findings.setting.knowledge == "labels"
    assert findings.recipe.method == "finetune"
    assert "terms" not in findings.recipe_yaml


def test_a_shape_is_taken_only_where_it_beats_the_base_as_it_starts(design: Design) -> None:
    (deep,) = (key for key in design.variants if key.startswith("shape-4"))
    below = found(design, {RANDOM: 0.3, deep: 0.4})
    assert below.setting == design.base.setting
    said = next(said for axis, _, said in below.axes if axis.name == "shape")
    assert "not better than the base" in said.sentence
    above = found(design, {RANDOM: 0.3, deep: 0.8})
    assert above.setting == design.variants[deep].setting


def test_a_larger_size_wins_but_is_not_taken(design: Design) -> None:
    findings = found(design, {"size-3-x-32": 0.8})
    said = next(said for axis, _, said in findings.axes if axis.name == "size")
    assert (said.choice, said.told_apart) == ("3 x 32", True)
    assert "The recipe keeps 2 x 32" in said.sentence
    assert findings.setting == design.base.setting


def test_a_seed_that_would_end_after_the_budget_is_not_begun(
    design: Design, tmp_path: Path
) -> None:
    whole = replace(found(design, {}).schedule, seeds=2, variants=(BASE, LABELS))
    slow = replace(SPEED, spent_s=66.0)
    samples, done = study(design, tmp_path)._samples(whole, slow)
    assert [(s.variant, s.seed) for s in samples] == [(BASE, 0), (LABELS, 0)]
    assert done.seeds == 1
    assert "slower than when it was measured" in done.notes[-1]
