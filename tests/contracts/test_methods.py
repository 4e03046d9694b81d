"""Every method, found through the registry: what must hold for each of them.

What cannot hold by design is listed below with the reason; beside it, soft cross-entropy equals
the teacher's entropy where student and teacher are equal (its gradient is zero all the same).
"""

import dataclasses
import inspect

import pytest
import torch
from torch import Tensor

from tests.unit.distill.conftest import (
    STUDENT,
    TEACHER,
    Side,
    bound_terms,
    denominators_of,
    loss_of,
    make_side,
)
from toolchain.distill.compose import compose
from toolchain.distill.distiller import Distiller
from toolchain.distill.objectives import CrossEntropy, SoftCrossEntropy
from toolchain.distill.term import find_method, methods

NOT_SEPARABLE = {
    "cofi/layers": "the nearest blocks are those of one micro-batch",
    "dist/intra": "correlates each class over the rows of one micro-batch",
    "cka/cka": "compares all tokens of one micro-batch at once",
    "mgskd/sample": "angles stand between the sequences of one micro-batch",
    "rkd/angle": "angles stand between the sequences of one micro-batch",
    "rkd/distance": "distances stand between the sequences of one micro-batch",
    "sp/similarity": "similarities stand between the sequences of one micro-batch",
    "similarities/similarities": "similarities stand between the sequences of one micro-batch",
    "lrc_bert/contrast": "the negatives are the other sequences of one micro-batch",
    "bert_emd/hidden": "the flow is the best one for all rows at once",
    "bert_emd/attention": "the flow is the best one for all rows at once",
}
"""Terms whose value over a batch is not that of its micro-batches added up."""

NOT_DUPLICABLE = {
    "sp/similarity": "a batch written twice makes rows longer by sqrt 2, which halves the value",
    "lrc_bert/contrast": "each row becomes a negative of its own copy",
}
"""Terms whose value changes when the batch is written twice."""

NOT_ZERO = {
    "annealing_kd/regression": "the target is phi times the teacher's logits, phi below 1",
    "continuation_kd/regression": "the target is phi times the teacher's logits, phi below 1",
    "alp_kd/layers": "a mixture of all teacher layers is none of them",
    "lrc_bert/contrast": "a contrast is 0.5 at best, when samples are orthonormal",
    "universal_kd/heads": "the gold labels train these heads",
    "universal_kd/layers": "each side has heads of its own, and layers are mixed",
    "rail_kd/layers": "each side has projections of its own",
    "dskd/projection": "the gold labels train the projection",
    "ted/filters": "the gold labels train the filters",
}
"""Terms that do not vanish where student and teacher are equal."""

STUDENT_RESTS = {"ted/filters": "the filters learn on frozen models"}
"""Terms that leave the student as it is."""

LEARNED_RESTS = {
    "rail_kd/layers": "teacher layers that the epoch did not draw",
    "ted/filtered": "the teacher's filters, which the stage before has trained",
}
"""Terms with learned parts that get no gradient in every step."""

EQUAL_DEPTH = {"mobilebert": "compares blocks one to one"}
"""Methods whose student is as deep as its teacher."""

EXCEPTIONS = sorted({*NOT_SEPARABLE, *NOT_DUPLICABLE, *NOT_ZERO, *STUDENT_RESTS, *LEARNED_RESTS})

# Their operator brings answers that nobody labelled, so terms on gold labels are refused.
UNLABELLED = ("distillm", "gkd_onpolicy")

GKD = """kd pd pkd distilbert theseus tinybert sid mobilebert minilm minilm_v2 alp_kd lrc_bert
annealing_kd ckd universal_kd diito continuation_kd rail_kd mgskd
tmkd mt_bert rl_kd uncertainty takd dgkd"""
"""The 25 methods of GKD (arXiv 2306.06629): 19 with one teacher, 6 with several."""

LATER = """glmd dkd logit_std dist rkl gjs gkd_onpolicy minillm skl srkl distillm akl taid seqkd
topk_kd uld rkd cka nst fsp sp bert_emd ted cofi dskd"""

CASES = [(name, stage) for name in methods.names() for stage in compose(name, {}).stages]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def terms(request: pytest.FixtureRequest):
    name, stage = request.param
    return bound_terms(name, TEACHER if name in EQUAL_DEPTH else STUDENT)[stage]


def test_all_of_gkd_and_what_came_later_is_there() -> None:
    assert len(GKD.split()) == 25
    assert {*GKD.split(), *LATER.split()} <= set(methods.names())


def sides(rows: int = 3, tokens: int = 7, *, grad: bool = False) -> tuple[Side, Side]:
    return (
        # A shallower student reads the lower layers of this one.
        make_side(TEACHER, rows, tokens, seed=1, grad=grad),
        make_side(TEACHER, rows, tokens, seed=2, grad=grad),
    )


def padded(side: Side, extra: int) -> Side:
    """The same tensors with garbage after the last token."""
    tensors = {}
    for request, tensor in side.tensors.items():
        if tensor.ndim == 2:
            tensors[request] = tensor
        else:
            garbage = torch.full((tensor.shape[0], extra, tensor.shape[2]), 9.0).double()
            tensors[request] = torch.cat([tensor, garbage], dim=1)
    return Side(side.spec, tensors)


def part(side: Side, rows: slice) -> Side:
    return Side(side.spec, {request: tensor[rows] for request, tensor in side.tensors.items()})


def test_padding_never_changes_the_loss(terms, mask: Tensor, labels: Tensor) -> None:
    student, teacher = sides()
    distiller = Distiller(terms).double()
    plain = loss_of(terms, student, teacher, mask, labels, distiller=distiller)
    longer = torch.cat([mask, torch.zeros(3, 4, dtype=mask.dtype)], dim=1)
    more = loss_of(
        terms, padded(student, 4), padded(teacher, 4), longer, labels, distiller=distiller
    )
    torch.testing.assert_close(more.total, plain.total, rtol=1e-10, atol=1e-12)


def test_padding_gets_no_gradient(terms, mask: Tensor, labels: Tensor) -> None:
    student, teacher = sides(grad=True)
    loss_of(terms, student, teacher, mask, labels).total.backward()
    for tensor in student.tensors.values():
        if tensor.grad is not None and tensor.ndim == 3:
            assert tensor.grad[~mask.bool()].abs().max() == 0


def test_micro_batches_add_up_to_the_batch(terms, mask: Tensor, labels: Tensor) -> None:
    terms = tuple(bound for bound in terms if bound.term.name not in NOT_SEPARABLE)
    if not terms:
        pytest.skip("its values belong to whole batches")
    student, teacher = sides()
    distiller = Distiller(terms).double()
    whole = loss_of(terms, student, teacher, mask, labels, distiller=distiller).total
    counts = denominators_of(terms, mask)
    pieces = [
        loss_of(
            terms,
            part(student, rows),
            part(teacher, rows),
            mask[rows],
            labels[rows],
            distiller=distiller,
            denominators=counts,
        ).total
        for rows in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(torch.stack(pieces).sum(), whole, rtol=1e-10, atol=1e-12)


def test_the_order_of_rows_does_not_matter(terms, mask: Tensor, labels: Tensor) -> None:
    student, teacher = sides()
    distiller = Distiller(terms).double()
    order = torch.tensor([2, 0, 1])
    shuffled = [
        Side(side.spec, {r: t[order] for r, t in side.tensors.items()})
        for side in (student, teacher)
    ]
    plain = loss_of(terms, student, teacher, mask, labels, distiller=distiller).total
    other = loss_of(terms, *shuffled, mask[order], labels[order], distiller=distiller).total
    torch.testing.assert_close(other, plain, rtol=1e-10, atol=1e-12)


def test_duplicating_the_batch_leaves_the_mean(terms, mask: Tensor, labels: Tensor) -> None:
    terms = tuple(bound for bound in terms if bound.term.name not in NOT_DUPLICABLE)
    if not terms:
        pytest.skip("its values change when rows are written twice")
    student, teacher = sides()
    distiller = Distiller(terms).double()
    twice = [
        Side(side.spec, {r: torch.cat([t, t]) for r, t in side.tensors.items()})
        for side in (student, teacher)
    ]
    plain = loss_of(terms, student, teacher, mask, labels, distiller=distiller).total
    other = loss_of(
        terms, *twice, torch.cat([mask, mask]), torch.cat([labels, labels]), distiller=distiller
    ).total
    torch.testing.assert_close(other, plain, rtol=1e-10, atol=1e-12)


def test_the_teacher_gets_no_gradient_and_projections_get_one(
    terms, mask: Tensor, labels: Tensor
) -> None:
    student, teacher = sides(grad=True)
    distiller = Distiller(terms).double()
    loss_of(terms, student, teacher, mask, labels, distiller=distiller).total.backward()
    assert all(tensor.grad is None for tensor in teacher.tensors.values())
    names = {bound.term.name for bound in terms}
    if not names <= STUDENT_RESTS.keys():
        assert any(tensor.grad is not None for tensor in student.tensors.values())
    for parameter in distiller.parameters():
        if parameter.grad is None and names & LEARNED_RESTS.keys():
            continue
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case))
def test_a_student_equal_to_its_teacher_has_no_gradient_but_from_labels(
    case: tuple[str, str], mask: Tensor, labels: Tensor
) -> None:
    name, stage = case
    terms = bound_terms(name, TEACHER, TEACHER)[stage]
    teacher = make_side(TEACHER, 3, 7, seed=4)
    copy = Side(
        TEACHER,
        {r: t.clone().requires_grad_(True) for r, t in teacher.tensors.items()},
    )
    soft = [bound for bound in terms if not isinstance(bound.objective, CrossEntropy)]
    soft = [bound for bound in soft if bound.term.name not in NOT_ZERO]
    if not soft:
        pytest.skip(f"{name}/{stage} has no term that vanishes at equality")
    loss = loss_of(tuple(soft), copy, teacher, mask, labels)
    entropy = sum(
        b.term.weight * float(loss.parts[b.name].detach())
        for b in soft
        if isinstance(b.objective, SoftCrossEntropy)
    )
    assert loss.total.item() == pytest.approx(entropy, abs=1e-12)
    loss.total.backward()
    for tensor in copy.tensors.values():
        if tensor.grad is not None:
            assert tensor.grad.abs().max() < 1e-12


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_every_exception_names_a_term_that_exists(name: str) -> None:
    method = name.split("/")[0]
    assert name in {t.name for terms in compose(method, {}).stages.values() for t in terms}


@pytest.mark.parametrize("name", methods.names())
def test_its_file_is_short_and_cites_its_source(name: str) -> None:
    cls = find_method(name)
    assert dataclasses.is_dataclass(cls)
    source = inspect.getsource(inspect.getmodule(cls))
    assert len(source.splitlines()) <= 70
    assert cls.__doc__
    assert methods.summary(name).endswith(".")
    assert all(term.name for term in cls().terms())


@pytest.mark.parametrize("name", methods.names())
def test_combining_with_kd_is_commutative(name: str, mask: Tensor, labels: Tensor) -> None:
    if name == "kd":
        pytest.skip("kd with itself is refused")
    student, teacher = sides()
    values = []
    other = "rkl" if name in UNLABELLED else "kd"
    for text in (f"{name}+{other}@0.5", f"{other}@0.5+{name}"):
        torch.manual_seed(0)
        stages = bound_terms(text, TEACHER if name in EQUAL_DEPTH else STUDENT)
        values.append(
            [loss_of(t, student, teacher, mask, labels).total.item() for t in stages.values()]
        )
    assert values[0] == values[1]


def test_a_forward_pass_in_bf16_changes_the_loss_by_two_percent_at_most(
    terms, mask: Tensor, labels: Tensor
) -> None:
    student, teacher = sides()
    rounded = [
        Side(side.spec, {r: t.bfloat16().double() for r, t in side.tensors.items()})
        for side in (student, teacher)
    ]
    distiller = Distiller(terms).double()
    exact = loss_of(terms, student, teacher, mask, labels, distiller=distiller).total
    near = loss_of(terms, *rounded, mask, labels, distiller=distiller).total
    torch.testing.assert_close(near, exact, rtol=2e-2, atol=1e-6)
