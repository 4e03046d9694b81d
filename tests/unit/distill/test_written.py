"""Terms written in a recipe: every axis by name, and what cannot be read refused with its place."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.distill.conftest import STUDENT, TEACHER, loss_of, make_side
from toolchain.distill import extract, matching, objectives, reduction, schedules, transforms
from toolchain.distill.compose import compose
from toolchain.distill.distiller import Distiller
from toolchain.distill.term import bind
from toolchain.distill.written import AXES, parts_of, read_terms
from toolchain.errors import UsageError
from toolchain.recipe import WrittenTerm


def read(**keys: Any):
    (term,) = read_terms([WrittenTerm(**keys)])
    return term


def test_every_axis_is_read_by_name() -> None:
    term = read(
        name="states",
        knowledge="hidden",
        match={"last": {"teacher_layer": 3}},
        transform=[{"pool": {"how": "mean"}}, "l2norm"],
        objective="mse",
        reduction="sum_feat_mean_cls",
        weight=0.5,
        schedule={"linear": {"start": 1.0, "end": 0.0}},
        stage="inter",
    )
    assert term.extract == extract.hidden
    assert term.match == matching.Last(3)
    assert term.transforms == (transforms.Pool("mean"), transforms.L2Norm())
    assert term.objective == objectives.MSE()
    assert term.reduction == reduction.sum_feat_mean_cls
    assert (term.weight, term.stage) == (0.5, "inter")
    assert term.schedule == schedules.Linear(1.0, 0.0)


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"knowledge": "logits", "objective": "kl"}, "mean_logits"),
        ({"knowledge": "logits", "objective": "mse"}, "mean_feat_mean_logits"),
        ({"knowledge": "hidden", "objective": "mse"}, "mean_feat_mean_tok"),
        ({"knowledge": "hidden", "objective": "mse", "transform": ["pool"]}, "mean_feat_mean_cls"),
        ({"knowledge": "attn_scores", "objective": "kl"}, "mean_query"),
        ({"knowledge": "attn_scores", "objective": "mse"}, "mean_pair"),
        ({"knowledge": "v", "objective": "kl", "transform": ["relation"]}, "mean_query"),
    ],
)
def test_the_reduction_follows_from_what_is_compared(keys: dict[str, Any], name: str) -> None:
    assert read(**keys).reduction.name == name


def test_written_terms_say_what_a_method_says(mask: Tensor, labels: Tensor) -> None:
    written = read_terms(
        [
            WrittenTerm(knowledge="logits", objective={"kl": {"tau": 4.0}}, weight=0.9),
            WrittenTerm(knowledge="labels", objective="ce", weight=0.1),
        ]
    )
    student, teacher = make_side(STUDENT, 3, 7, seed=1), make_side(TEACHER, 3, 7, seed=2)
    values = []
    for composition in (compose("", {}, written), compose("kd", {})):
        terms = tuple(bind(t, STUDENT, TEACHER) for t in composition.stages["pred"])
        values.append(loss_of(terms, student, teacher, mask, labels).total)
    torch.testing.assert_close(values[0], values[1])


def test_written_terms_join_a_method() -> None:
    written = read_terms([WrittenTerm(name="mine", knowledge="hidden", objective="mse")])
    names = [t.name for t in compose("kd", {}, written).stages["pred"]]
    assert sorted(names) == ["kd/labels", "kd/soft", "mine"]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"knowledge": "hiden", "objective": "mse"}, "unknown knowledge 'hiden'"),
        ({"knowledge": "hidden", "objective": "mze"}, "unknown objective 'mze'"),
        ({"knowledge": "hidden", "objective": {"kl": {"tua": 1}}}, "has no option 'tua'"),
        (
            {"knowledge": "logits", "objective": {"kl": {"tau": "hot"}}},
            "terms[0].objective.kl.tau: expected float, found 'hot'",
        ),
        (
            {"knowledge": "hidden", "objective": "mse", "match": "custom"},
            "'custom' needs the option 'pairs'",
        ),
        ({"knowledge": "hidden", "objective": "mse", "match": "final"}, "names no block"),
        (
            {"knowledge": "hidden", "objective": "mse", "match": {"last": {}, "first": {}}},
            "expected one name with its settings",
        ),
        ({"knowledge": "logits", "objective": "mse", "reduction": "mean"}, "unknown reduction"),
        (
            {
                "knowledge": "logits",
                "objective": "kl",
                "schedule": {"gate": {"opens": 0.9, "closes": 0.1}},
            },
            "it runs from 0.9 to 0.1 of the stage",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_place(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as refusal:
        read(**keys)
    assert sentence in str(refusal.value)


def test_terms_that_all_weigh_nothing_are_refused() -> None:
    written = read_terms([WrittenTerm(knowledge="logits", objective="kl", weight=0.0)])
    with pytest.raises(UsageError, match="the weights of all terms are zero"):
        compose("", {}, written)


def test_a_view_that_nothing_makes_is_refused() -> None:
    written = read_terms([WrittenTerm(knowledge="logits", objective="kl", view="swapped")])
    with pytest.raises(UsageError, match="reads the view 'swapped', which nothing makes"):
        compose("", {}, written)


@pytest.mark.parametrize("axis", sorted(AXES))
def test_every_part_has_a_name_of_its_own(axis: str) -> None:
    module = AXES[axis]
    named = [
        value.key
        for name in module.__all__
        if isinstance(value := getattr(module, name), type) and value.__dict__.get("key")
    ]
    assert len(named) == len(set(named)) == len(parts_of(axis))


def test_balance_divides_each_term_by_the_mean_of_its_first_values(
    mask: Tensor, labels: Tensor
) -> None:
    terms = tuple(bind(t, STUDENT, TEACHER) for t in compose("kd+pkd", {}).stages["pred"])
    distiller = Distiller(terms, balance=True).double()
    student, teacher = make_side(STUDENT, 3, 7, seed=1), make_side(TEACHER, 3, 7, seed=2)
    names = [b.name for b in terms]
    for step in range(60):
        distiller.observe({name: float(i + 1 + (step >= 50)) for i, name in enumerate(names)})
    plain = loss_of(terms, student, teacher, mask, labels)
    balanced = loss_of(terms, student, teacher, mask, labels, distiller=distiller)
    expected = sum(
        b.term.weight * plain.parts[b.name].double() / (i + 1) for i, b in enumerate(terms)
    )
    torch.testing.assert_close(balanced.total, torch.as_tensor(expected), rtol=1e-6, atol=1e-9)
