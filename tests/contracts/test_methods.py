"""Every method, found through the registry: what must hold for each of them.

By design not batch-separable or not zero at equality: none of the methods shipped now, except
that soft cross-entropy equals the teacher's entropy there (its gradient is zero all the same).
"""

import dataclasses
import inspect

import pytest
import torch
from torch import Tensor

from tests.unit.distill.conftest import STUDENT, TEACHER, Side, bound_terms, loss_of, make_side
from toolchain.distill.compose import compose
from toolchain.distill.distiller import Distiller
from toolchain.distill.objectives import CrossEntropy, SoftCrossEntropy
from toolchain.distill.term import find_method, methods

CASES = [(name, stage) for name in methods.names() for stage in compose(name, {}).stages]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def terms(request: pytest.FixtureRequest):
    name, stage = request.param
    return bound_terms(name)[stage]


def sides(rows: int = 3, tokens: int = 7, *, grad: bool = False) -> tuple[Side, Side]:
    return (
        make_side(STUDENT, rows, tokens, seed=1, grad=grad),
        make_side(TEACHER, rows, tokens, seed=2, grad=grad),
    )


def padded(side: Side, extra: int) -> Side:
    """The same tensors with garbage after the last token."""
    tensors = {}
    for request, tensor in side.tensors.items():
        if request.kind == "logits":
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
    for request, tensor in student.tensors.items():
        if tensor.grad is not None and request.kind != "logits":
            assert tensor.grad[~mask.bool()].abs().max() == 0


def test_micro_batches_add_up_to_the_batch(terms, mask: Tensor, labels: Tensor) -> None:
    student, teacher = sides()
    distiller = Distiller(terms).double()
    whole = loss_of(terms, student, teacher, mask, labels, distiller=distiller).total
    counts = {b.term.name: b.term.reduction.denominator(mask) for b in terms}
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
    assert any(tensor.grad is not None for tensor in student.tensors.values())
    for parameter in distiller.parameters():
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
    soft = [bound for bound in terms if not isinstance(bound.term.objective, CrossEntropy)]
    if not soft:
        pytest.skip(f"{name}/{stage} has no teacher to be equal to")
    loss = loss_of(tuple(soft), copy, teacher, mask, labels)
    entropy = sum(
        b.term.weight * float(loss.parts[b.term.name])
        for b in soft
        if isinstance(b.term.objective, SoftCrossEntropy)
    )
    assert loss.total.item() == pytest.approx(entropy, abs=1e-12)
    loss.total.backward()
    for tensor in copy.tensors.values():
        if tensor.grad is not None:
            assert tensor.grad.abs().max() < 1e-12


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
    for text in (f"{name}+kd@0.5", f"kd@0.5+{name}"):
        torch.manual_seed(0)
        stages = bound_terms(text)
        values.append(
            [loss_of(t, student, teacher, mask, labels).total.item() for t in stages.values()]
        )
    assert values[0] == values[1]
