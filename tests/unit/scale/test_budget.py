"""The arithmetic of ZeRO (arXiv 1910.02054, section 5), and which placement is found."""

import dataclasses
from typing import Literal

import pytest
from transformers import AutoConfig

from toolchain.distill.compose import compose
from toolchain.distill.operators import Interchange, TeacherMixed
from toolchain.distill.records import Parts
from toolchain.distill.surgery import ReplaceModules
from toolchain.distill.term import bind
from toolchain.errors import ResourceError, UsageError
from toolchain.models.family import family_of
from toolchain.recipe import Placement
from toolchain.scale.budget import Budget, Job, Placed, budget_of
from toolchain.scale.captured import learned_params
from toolchain.scale.cuts import cut_params, why_not_cut
from toolchain.scale.hardware import Hardware
from toolchain.scale.placing import barred, cheapest, resolve, tried
from toolchain.spec import ModelSpec

Student = Literal["whole", "zero1", "zero2", "zero3", "offload"]


def llama(layers: int, width: int) -> ModelSpec:
    config = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 8,
        "num_key_value_heads": 8, "intermediate_size": 3 * width, "vocab_size": 1000,
        "max_position_embeddings": 512,
    }  # fmt: skip
    return family_of("llama").spec(config, task="causal_lm")


TEACHER, STUDENT = llama(24, 1024), llama(6, 512)


def bare(model_type: str) -> ModelSpec:
    """Return the usual shape of a family."""
    return family_of(model_type).spec(AutoConfig.for_model(model_type).to_dict())


def job(method: str = "kd", stage: str = "pred", **changes: object) -> Job:
    terms = compose(method, {}).stages[stage]  # type: ignore[index]
    bound = tuple(bind(term, STUDENT, TEACHER) for term in terms)
    made = Job(student=STUDENT, teachers=(TEACHER,), terms=bound, batch=8, tokens=64, bf16=True)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def gpus(ranks: int, size: float, **more: int) -> Hardware:
    return Hardware(ranks=ranks, rank_bytes=round(size), gpu=True, **more)


def share(budget: Budget, name: str) -> int:
    return sum(s.most for s in budget.shares if s.name == name)


def state(budget: Budget) -> int:
    return sum(share(budget, name) for name in ("student weights", "gradients", "optimiser"))


@pytest.mark.parametrize("ranks", [2, 64])
def test_each_stage_divides_what_the_paper_says(ranks: int) -> None:
    P, machine = STUDENT.params(), gpus(ranks, 1e12)
    whole, one, two, three = (
        budget_of(job(), Placed(student=place), machine)
        for place in ("whole", "zero1", "zero2", "zero3")  # type: ignore[arg-type]
    )
    live = 4 * max(2 * STUDENT.block_params(), STUDENT.vocab * STUDENT.width)
    assert state(whole) == 16 * P
    assert state(one) == pytest.approx(8 * P + 12 * P / ranks, rel=1e-6)
    assert state(two) == pytest.approx(4 * P + 16 * P / ranks, rel=1e-6)
    # Weights and gradients of what is gathered are whole.
    assert state(three) - 2 * live == pytest.approx(20 * P / ranks, rel=1e-6)


def test_the_papers_own_example() -> None:
    # Figure 1: 7.5 B parameters on 64 GPUs take 31.4 and 16.6 GB, where weights and gradients have
    # 2 bytes. Here they have 4: 30 GB more under ZeRO-1; under ZeRO-2, 15 GB of weights more and
    # the 64th part of 15 GB of gradients.
    large = llama(120, 2240)
    scale = 7.5e9 / large.params()
    machine = gpus(64, 1e12)
    places: tuple[tuple[Student, float], ...] = (("zero1", 61.4), ("zero2", 31.9))
    for place, figure in places:
        budget = budget_of(job(student=large, terms=()), Placed(student=place), machine)
        assert state(budget) * scale / 1e9 == pytest.approx(figure, rel=0.01)


def test_an_offloaded_student_keeps_its_weights_on_the_gpu() -> None:
    P = STUDENT.params()
    budget = budget_of(job(), Placed(student="offload"), gpus(4, 1e12))
    assert state(budget) == 4 * P
    assert share(budget, "student in host memory") == 16 * P


def test_a_teacher_under_zero3_holds_its_part_and_what_is_gathered() -> None:
    two, four = (
        share(budget_of(job(), Placed(teacher="zero3"), gpus(n, 1e12)), "teacher weights")
        for n in (2, 4)
    )
    assert two - four == pytest.approx(2 * TEACHER.params() / 4, rel=1e-6)


def test_a_cached_teacher_takes_disk_and_no_memory() -> None:
    cached = budget_of(job(), Placed(teacher="cached"), gpus(1, 1e12))
    whole = budget_of(job(), Placed(), gpus(1, 1e12))
    assert share(cached, "teacher weights") == 0
    # 64 of the vocabulary with number and value, and the rest's mass at two temperatures.
    assert cached.disk_per_token == 64 * (2 + 2) + 2 * 4
    assert whole.disk_per_token == 0
    assert cached.before > 0
    assert cached.rank_at("loss") < whole.rank_at("loss")


def test_a_batch_is_divided_among_ranks() -> None:
    one, two = (budget_of(job(), Placed(), gpus(n, 1e12)) for n in (1, 2))
    assert share(one, "activations") == 2 * share(two, "activations")
    wide = job(student=llama(1, 64))
    cut, own = (
        budget_of(wide, Placed(teacher=place), gpus(2, 1e12))
        for place in ("tensor_parallel", "zero3")  # type: ignore[arg-type]
    )
    # Each rank of a teacher cut across its matrices passes the rows of all, and keeps its own.
    assert share(cut, "teacher's pass") > share(own, "teacher's pass")
    assert share(cut, "captured knowledge") == share(own, "captured knowledge")


def test_projections_shared_by_a_group_count_once() -> None:
    terms = compose("tinybert", {}).stages["inter"]
    bound = [bind(term, STUDENT, TEACHER) for term in terms]
    assert sum(bool(b.transforms) for b in bound) > 1
    assert learned_params(bound) == STUDENT.width * TEACHER.width


def test_the_cheapest_that_fits_is_found_in_the_order_of_cost() -> None:
    machine = gpus(4, 1e12)
    found = tried(job(), Placement(), machine)
    assert found[0].placed == Placed()
    assert cheapest(found) == found[0]
    sizes = {one.placed: one.budget.rank_bytes for one in found if one.budget}
    tight = gpus(4, sizes[Placed("whole", "zero1")])
    best = cheapest(tried(job(), Placement(), tight))
    assert best is not None
    assert best.placed == Placed("whole", "zero1")
    assert cheapest(tried(job(), Placement(), gpus(4, 1e6))) is None


@pytest.mark.parametrize(
    ("placement", "machine", "reason"),
    [
        (
            Placement(teacher="whole", student="zero2"),
            gpus(1, 1e12),
            "zero2 divides among ranks, there is one",
        ),
        (Placement(teacher="tensor_parallel"), gpus(1, 1e12), "tensor_parallel divides"),
        (
            Placement(teacher="whole", student="offload"),
            Hardware(ranks=2, rank_bytes=10**12, gpu=False),
            "offload moves bytes from a GPU",
        ),
    ],
)
def test_placements_that_make_no_sense_say_why(
    placement: Placement, machine: Hardware, reason: str
) -> None:
    (first, *_) = tried(job(), placement, machine)
    assert first.budget is None
    assert reason in str(first.refused)


def test_knowledge_that_does_not_exist_beforehand_cannot_be_cached() -> None:
    bars = barred([Parts(operators=(Interchange(),))])
    asked = Placement(teacher="cached", student="whole")
    (found,) = tried(job(), asked, gpus(1, 1e12), bars=bars)
    assert "cannot be cached: interchange: in every step" in str(found.refused)
    (free,) = tried(job(), asked, gpus(1, 1e12))
    assert free.refused is None
    assert not barred([Parts()])


@pytest.mark.parametrize(
    ("parts", "never", "reason"),
    [
        (Parts(surgery=ReplaceModules()), {"cached"}, "takes modules of"),
        (Parts(operators=(TeacherMixed(),)), {"cached"}, "judges text that it and"),
    ],
)
def test_where_a_teacher_cannot_lie_is_not_chosen_for_it(
    parts: Parts, never: set[str], reason: str
) -> None:
    asked = Placement(student="whole")
    found = tried(job(), asked, gpus(2, 1e12), bars=barred([parts]))
    refused = {one.placed.teacher: str(one.refused) for one in found if one.budget is None}
    assert set(refused) == never
    assert any(reason in said for said in refused.values())
    # Named, the plan of its stage refuses it, with the way out.
    (named,) = tried(
        job(),
        Placement(teacher="tensor_parallel", student="whole"),
        gpus(2, 1e12),
        bars=barred([parts]),
        strict=False,
    )
    assert named.budget is not None


def test_host_and_disk_count_where_they_are_known() -> None:
    placement = Placement(teacher="offload", student="whole")
    (free,) = tried(job(), placement, gpus(1, 1e12))
    (poor,) = tried(job(), placement, gpus(1, 1e12, host_bytes=10**9))
    (full,) = tried(job(), placement, gpus(1, 1e12, disk_bytes=10**8))
    assert free.refused is None
    assert "host memory" in str(poor.refused)
    assert "disk" in str(full.refused)


def test_a_run_is_refused_with_the_placement_that_would_do() -> None:
    whole, cached = (
        budget_of(job(), Placed(teacher), gpus(1, 1e12)).rank_bytes
        for teacher in ("whole", "cached")  # type: ignore[arg-type]
    )
    between = gpus(1, (whole + cached) / 2)
    with pytest.raises(ResourceError, match="training needs") as refused:
        resolve(job(), Placement(teacher="whole", student="whole"), between)
    assert "teacher offload, student whole" in refused.value.hint
    assert resolve(job(), Placement(), between).placed == Placed("offload", "whole")
    assert resolve(job(), Placement(), gpus(1, whole)).placed == Placed()
    with pytest.raises(ResourceError) as hopeless:
        resolve(job(), Placement(), gpus(1, 1e6))
    assert "no placement fits" in hopeless.value.hint


def test_a_placement_must_fit_every_stage_not_the_hardest_alone() -> None:
    teaching = job(batch=2, tokens=16)
    # Without a teacher, and with more activations than all but the teacher of the other.
    alone = job(teachers=(), terms=(), batch=2, tokens=512)
    whole, streamed = Placed(), Placed(teacher="cached")
    machine = gpus(2, 1e12)

    def need(one: Job, placed: Placed) -> int:
        return budget_of(one, placed, machine).rank_bytes

    assert need(alone, whole) < need(teaching, whole)
    assert need(alone, streamed) > need(teaching, streamed)
    room = gpus(2, need(alone, whole) - 1)
    by_itself = resolve(teaching, Placement(student="whole"), room)
    assert by_itself.placed.teacher != "whole"
    assert budget_of(alone, by_itself.placed, room).why_not()
    with pytest.raises(ResourceError, match="cheapest placement that fits"):
        resolve(teaching, Placement(student="whole"), room, beside=(alone,))
    together = resolve(teaching, Placement(), room, beside=(alone,))
    assert together.placed.student != "whole"
    assert all(not budget_of(one, together.placed, room).why_not() for one in (teaching, alone))


def test_a_teacher_cut_over_ranks_holds_its_part_of_what_is_cut() -> None:
    bert = family_of("bert").spec(
        {
            "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 50,
            "intermediate_size": 32, "max_position_embeddings": 16, "type_vocab_size": 2,
        },
        task="classify",
        num_labels=2,
    )  # fmt: skip
    # By hand: projections with biases, what is summed without its bias, the first layer with it.
    assert cut_params(bert) == 3 * (3 * (8 * 8 + 8) + 8 * 8 + (8 * 32 + 32) + 32 * 8)
    # A decoder's norms alone are whole: two a block and one behind the last.
    assert TEACHER.params() - cut_params(TEACHER) == (2 * 24 + 1) * 1024
    budget = budget_of(job(), Placed(teacher="tensor_parallel"), gpus(4, 1e12))
    cut = cut_params(TEACHER)
    assert share(budget, "teacher weights") == 2 * (TEACHER.params() - cut + cut // 4)


def test_a_teacher_that_cannot_be_cut_is_none_for_that_placement() -> None:
    asked = Placement(teacher="tensor_parallel")
    odd = dataclasses.replace(TEACHER, heads=6, kv_heads=3, head_width=128)
    with pytest.raises(UsageError, match="it has 3 heads of keys and values, and there are 2"):
        resolve(job(teachers=(odd,)), asked, gpus(2, 1e12))
    assert resolve(job(teachers=(odd,)), asked, gpus(3, 1e12)).placed.teacher == "tensor_parallel"
    assert why_not_cut(bare("mobilebert"), 2) == "there is no plan for mobilebert"
    deberta = dataclasses.replace(bare("deberta-v2"), task="mask_lm")
    for own in (0, 1, 2):
        parts = dataclasses.replace(deberta.parts, relative_projections=own)
        found = why_not_cut(dataclasses.replace(deberta, parts=parts), 2)
        assert (found is None) == (own != 1), found
    gpt2 = family_of("gpt2").spec(
        {"n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 16},
        task="causal_lm",
    )
    assert why_not_cut(gpt2, 2) is None
    assert all(
        why_not_cut(bare(name), 2) is None for name in ("bert", "roberta", "electra", "mpnet")
    )


def test_pieces_that_are_asked_for_by_name_are_made_of_one_rank_too() -> None:
    asked = Placement(teacher="zero3", student="zero1")
    assert resolve(job(), asked, gpus(1, 1e12)).placed == Placed("zero3", "zero1")
