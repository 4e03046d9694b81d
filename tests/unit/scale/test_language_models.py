"""Decoders from a cache: which terms can be computed, what is refused, what a token takes."""

from pathlib import Path

import pytest
import torch

from tests.unit.models import zoo
from tests.unit.scale.lab import cached, filled, losses, plan_of, whole
from toolchain.distill.objectives.sparse import SampledKL, StoredKL
from toolchain.errors import IntegrityError, UsageError
from toolchain.plan.cached import check_cacheable

TOP = {"placement": {"top_k": 8}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save(zoo.make("llama", "causal_lm"), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    for name, count in (("train", 24), ("dev", 6)):
        rows = (
            f'{{"prompt": "say {"abcdefgh"[i % 8]} {i % 5}", "answer": "{"xyz"[i % 3] * 4}"}}'
            for i in range(count)
        )
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def reading(folder: Path) -> dict:
    return {"placement": {"teacher": "cached", "cache": str(folder)}}


@pytest.mark.parametrize("method", ["topk_kd", "minilm+topk_kd", "dskd"])
def test_losses_from_a_cache_are_those_beside_the_teacher(
    method: str, teacher: Path, task: Path, tmp_path: Path
) -> None:
    options = {"method_options": {"topk_kd": {"k": 8}}} if "topk" in method else {}
    plan = plan_of(teacher, task, method, "placement.top_k=8", "placement.states=fp32", **options)
    filled(plan, tmp_path / "cache")
    online = losses(plan, whole(plan), tmp_path / "online")
    plan = plan_of(teacher, task, method, **options, **reading(tmp_path / "cache"))
    offline = losses(plan, cached(plan), tmp_path / "offline")
    assert offline == pytest.approx(online, rel=1e-3)


def test_a_damaged_last_layer_is_found(teacher: Path, task: Path, tmp_path: Path) -> None:
    plan = plan_of(teacher, task, "dskd", "placement.top_k=8")
    filled(plan, tmp_path)
    (path,) = (tmp_path / "teacher").glob("decoder-*")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="decoder-"):
        cached(plan_of(teacher, task, "dskd", **reading(tmp_path)))[0].open(
            frozenset(), device=torch.device("cpu"), bf16=False
        )


def test_kd_becomes_the_kl_over_the_largest_outcomes_and_the_plan_says_so(
    teacher: Path, task: Path, tmp_path: Path
) -> None:
    plan = plan_of(teacher, task, "kd", "placement.top_k=8")
    (done,) = filled(plan, tmp_path)
    assert [keep.name for keep in done.keeps] == ["largest"]
    read = plan_of(teacher, task, "kd", **reading(tmp_path))
    soft = next(b for b in read.stages[0].terms if b.name == "kd/soft")
    assert soft.objective == StoredKL(k=8, tau=4.0, stored=8, temperatures=(1.0, 4.0))
    assert any("8 largest outcomes" in reason for reason in read.reasons)
    value = losses(read, cached(read), tmp_path / "run")
    assert all(loss > 0 for loss in value)
    with pytest.raises(UsageError, match=r"mass of the rest at tau 1, 4, a term compares at 3"):
        plan_of(teacher, task, "kd", method_options={"kd": {"tau": 3.0}}, **reading(tmp_path))
    options = {"topk_kd": {"k": 20, "tau": 1.0}}
    with pytest.raises(UsageError, match="compares 20 outcomes, the cache keeps 8"):
        plan_of(teacher, task, "topk_kd", method_options=options, **reading(tmp_path))
    with pytest.raises(UsageError, match=r"keeps 8 outcomes, placement\.top_k is 16"):
        plan_of(teacher, task, "kd", "placement.top_k=16", **reading(tmp_path))


def test_a_cache_of_all_outcomes_serves_every_temperature_and_objective(
    teacher: Path, task: Path, tmp_path: Path
) -> None:
    all_of_them = "placement.top_k=50"
    (done,) = filled(plan_of(teacher, task, "kd", all_of_them), tmp_path / "cache")
    assert [keep.name for keep in done.keeps] == ["logits"]
    reading_all = {"placement": {**reading(tmp_path / "cache")["placement"], "top_k": 50}}
    for method, options in (("kd", {"kd": {"tau": 3.0}}), ("rkl", {"rkl": {"tau": 2.0}})):
        online = plan_of(teacher, task, method, method_options=options)
        expected = losses(online, whole(online), tmp_path / f"online-{method}")
        read = plan_of(teacher, task, method, method_options=options, **reading_all)
        found = losses(read, cached(read), tmp_path / f"offline-{method}")
        assert found == pytest.approx(expected, rel=1e-5)


def test_kd_from_drawn_outcomes_and_what_needs_the_largest_is_refused(
    teacher: Path, task: Path, tmp_path: Path
) -> None:
    drawn = ["placement.top_k=40", "placement.logits=sampled"]
    (done,) = filled(plan_of(teacher, task, "kd", *drawn), tmp_path / "cache")
    assert [keep.name for keep in done.keeps] == ["sampled"]
    read = plan_of(teacher, task, "kd", **reading(tmp_path / "cache"))
    soft = next(b for b in read.stages[0].terms if b.name == "kd/soft")
    assert soft.objective == SampledKL(draws=40, tau=4.0, temperatures=(4.0,))
    assert any("estimated, without bias, from 40 outcomes" in said for said in read.reasons)
    online = plan_of(teacher, task, "kd")
    expected = losses(online, whole(online), tmp_path / "online")
    # The labels' part is the same; the teacher's differs by what so few draws leave to chance.
    assert losses(read, cached(read), tmp_path / "offline") == pytest.approx(expected, rel=0.3)
    for more, sentence in (
        (["placement.logits=largest"], "it keeps sampled outcomes, placement.logits is largest"),
        (["placement.top_k=16"], "keeps 40 outcomes, placement.top_k is 16"),
        (["method_options={kd: {tau: 3.0}}"], "outcomes drawn at tau 4, a term compares at 3"),
        (
            ["method=topk_kd", "method_options={topk_kd: {k: 8, tau: 4.0}}"],
            "compares the largest outcomes",
        ),
    ):
        with pytest.raises(UsageError, match=sentence):
            plan_of(teacher, task, "kd", *more, **reading(tmp_path / "cache"))
    # And before it is made.
    few = "method_options={topk_kd: {k: 8}}"
    planned = plan_of(teacher, task, "topk_kd", *drawn, few)
    with pytest.raises(UsageError, match="compares the largest outcomes"):
        check_cacheable(planned, "a cache was asked for")


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("rkl", r"'rkl/soft' \(rkl\) needs the teacher's whole distribution over 50 tokens"),
        ("taid", r"\(taid\) needs the teacher's whole distribution"),
        ("uld", r"\(l1_sorted\) needs the teacher's whole distribution"),
        ("logit_std", "needs the teacher's whole distribution"),
        ("gkd_onpolicy", "student_generate .* judges text that the student writes"),
        ("distillm", "student_replay .* judges text that the student writes"),
        ("minillm", "teacher_mixed .* judges text that it and the student write"),
        ("seqkd", "teacher_generate .* writes the rows that would be cached"),
    ],
)
def test_what_needs_more_than_the_largest_or_a_teacher_that_runs_is_refused(
    method: str, sentence: str, teacher: Path, task: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        plan_of(
            teacher, task, method,
            placement={"teacher": "cached", "cache": str(tmp_path), "top_k": 8},
        )  # fmt: skip
    assert "placement.teacher=whole" in caught.value.hint


def test_a_stage_that_hides_other_tokens_in_every_step_is_refused(tmp_path: Path) -> None:
    teacher = zoo.save(zoo.make("bert", "mask_lm"), tmp_path / "bert")
    (tmp_path / "text").mkdir()
    for name in ("train", "dev"):
        text = "\n".join(f"a text of {i} words and more" for i in range(20))
        (tmp_path / "text" / f"{name}.txt").write_text(text + "\n")
    data = {"path": str(tmp_path / "text"), "task": "mask_lm"}
    with pytest.raises(UsageError, match="hides other tokens in every step"):
        plan_of(teacher, tmp_path / "text", "kd", data=data, **reading(tmp_path / "cache"))
