"""Training from a cache is training beside the teacher, for every method that can be cached."""

from pathlib import Path

import pytest

from tests.conftest import make_teacher
from tests.unit.scale.lab import STEPS, cached, filled, losses, plan_of, small_task, whole
from toolchain.distill.term import methods
from toolchain.errors import UsageError
from toolchain.plan.cached import check_cacheable

REFUSED = {
    "diito": "runs again with activations exchanged",
    "theseus": "the teacher's own modules",
    "finetune": "reads nothing of a teacher",
    "takd": "behind an assistant",
    "dgkd": "behind an assistant",
}
DECODERS = {"distillm", "gkd_onpolicy", "minillm", "seqkd"}
"""Methods for causal language models alone; their refusals are in test_refusals."""
ANOTHER = {"mobilebert": "its student has a family of its own", "finetune": "reads no teacher"}
TWO = {"tmkd", "mt_bert", "rl_kd", "uncertainty"}
"""Methods with several teachers."""

QUICK = {
    "kd", "tinybert", "minilm", "minilm_v2", "pkd", "rkd", "universal_kd", "ckd", "mt_bert",
    "rail_kd", "lrc_bert", "cofi",
}  # fmt: skip
"""One method of every family; all others are slow tests."""
CACHED = [
    n if n in QUICK else pytest.param(n, marks=pytest.mark.slow)
    for n in methods.names()
    if n not in {*REFUSED, *ANOTHER, *DECODERS}
]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("second"), head=True, seed=3)


def options_of(method: str, second: Path) -> dict:
    more: dict = {}
    if method in TWO:
        more["teachers"] = [str(second)]
    if method in ("takd", "dgkd"):
        more["assistants"] = [{"layers": 3}]
    if method == "cofi":
        more["student"] = {"init": "teacher_copy"}
    return more


def read_from(folder: Path) -> dict:
    return {"placement": {"teacher": "cached", "cache": str(folder)}}


@pytest.mark.parametrize("method", CACHED)
def test_losses_from_a_cache_in_fp32_are_those_beside_the_teacher(
    method: str, teacher_folder: Path, second: Path, task: Path, tmp_path: Path
) -> None:
    options = options_of(method, second)
    plan = plan_of(teacher_folder, task, method, "placement.states=fp32", **options)
    check_cacheable(plan, "a cache was asked for")
    filled(plan, tmp_path / "cache")
    online = losses(plan, whole(plan), tmp_path / "online")
    reading = plan_of(teacher_folder, task, method, **options, **read_from(tmp_path / "cache"))
    offline = losses(reading, cached(reading), tmp_path / "offline")
    assert len(online) == STEPS * len(plan.stages)
    assert offline == pytest.approx(online, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("method", ["tinybert+kd", "minilm", "minilm_v2", "pkd"])
def test_rounded_states_change_losses_by_two_percent_at_most(
    method: str, precision: str, teacher_folder: Path, task: Path, tmp_path: Path
) -> None:
    plan = plan_of(teacher_folder, task, method, f"placement.states={precision}")
    filled(plan, tmp_path / "cache")
    online = losses(plan, whole(plan), tmp_path / "online")
    reading = plan_of(teacher_folder, task, method, **read_from(tmp_path / "cache"))
    offline = losses(reading, cached(reading), tmp_path / "offline")
    assert offline != online
    assert offline == pytest.approx(online, rel=2e-2, abs=1e-6)


@pytest.mark.parametrize("method", sorted(REFUSED))
def test_what_cannot_be_cached_is_refused_in_the_plan(
    method: str, teacher_folder: Path, second: Path, task: Path, tmp_path: Path
) -> None:
    options = options_of(method, second)
    with pytest.raises(UsageError, match=REFUSED[method]):
        plan_of(teacher_folder, task, method, **options, **read_from(tmp_path / "cache"))
    with pytest.raises(UsageError, match=REFUSED[method]):
        check_cacheable(plan_of(teacher_folder, task, method, **options), "a cache was asked for")
