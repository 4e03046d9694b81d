"""Methods combined by `+`, and what two specs must have in common."""

import dataclasses

import pytest

from tests.unit.distill.conftest import STUDENT, TEACHER
from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.compose import compose
from toolchain.distill.term import Term, bind
from toolchain.errors import UsageError


def names(text: str, stage: str = "pred") -> dict[str, float]:
    return {term.name: term.weight for term in compose(text, {}).stages[stage]}


def test_weights_multiply() -> None:
    assert names("kd@0.5") == pytest.approx({"kd/soft": 0.45, "kd/labels": 0.05})


def test_gold_labels_are_one_term_with_the_larger_weight() -> None:
    combined = compose("kd+finetune", {})
    labels = [t for t in combined.stages["pred"] if t.extract.kind == "labels"]
    assert [(t.name, t.weight) for t in labels] == [("finetune/labels", 1.0)]
    assert "kd/labels is the same term as finetune/labels" in combined.notes[0]


def test_the_order_of_names_does_not_matter() -> None:
    assert compose("kd+pkd+minilm_v2@0.5", {}).stages == compose("minilm_v2@0.5+pkd+kd", {}).stages


def test_a_weight_with_an_exponent_is_not_read_as_two_methods() -> None:
    assert names("kd@1e+1")["kd/soft"] == pytest.approx(9.0)


def test_options_reach_the_method() -> None:
    soft = compose("kd", {"kd": {"tau": 2, "alpha": 0.5}}).stages["pred"][0]
    assert soft.objective == objectives.KL(tau=2)
    assert soft.weight == 0.5


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ("kdd", {}, "unknown method 'kdd' (did you mean 'kd'?"),
        ("kd+", {}, "cannot read ''"),
        ("kd@-1", {}, "must be zero or more"),
        ("kd@nan", {}, "cannot read 'kd@nan'"),
        ("kd@1.2.3", {}, "'1.2.3' is not a weight"),
        ("kd+kd", {}, "names one method twice"),
        ("kd@0+pkd@0", {}, "the weights of all terms are zero"),
        ("kd", {"pkd": {}}, "method_options names 'pkd'"),
        ("kd", {"kd": {"taau": 1}}, "has no option 'taau' (did you mean 'tau'?"),
        ("kd", {"kd": {"tau": "hot"}}, "method_options.kd.tau: expected float, found 'hot'"),
    ],
)
def test_what_it_cannot_mean_is_refused(text: str, options: dict, sentence: str) -> None:
    with pytest.raises(UsageError) as refusal:
        compose(text, options)
    assert sentence in str(refusal.value)


def attention() -> Term:
    return compose("tinybert", {}).stages["inter"][0]


def test_unequal_heads_are_refused_with_both_numbers_and_a_way_out() -> None:
    terms = {t.name: t for t in compose("tinybert", {}).stages["inter"]}
    with pytest.raises(UsageError) as refusal:
        bind(terms["tinybert/attention"], STUDENT.reshaped(heads=4), TEACHER)
    text = str(refusal.value)
    assert "the student has 4 heads, the teacher 2" in text
    assert "minilm_v2" in text


def test_unequal_widths_are_refused_without_a_projection_and_bridged_by_one() -> None:
    narrow = STUDENT.reshaped(width=16)
    pkd = compose("pkd", {}).stages["pred"][1]
    plain = next(t for t in compose("pkd", {}).stages["pred"] if t.name == "pkd/patient")
    with pytest.raises(UsageError) as refusal:
        bind(plain, narrow, TEACHER)
    assert "the student has 16, the teacher 24" in str(refusal.value)
    projected = dataclasses.replace(plain, transforms=(transforms.Project(), *plain.transforms))
    resolved = bind(projected, narrow, TEACHER).transforms[0]
    assert isinstance(resolved, transforms.Project)
    assert resolved.to == 24
    assert pkd


def test_relation_heads_are_the_largest_number_that_fits_both_widths() -> None:
    qq = compose("minilm_v2", {}).stages["inter"][0]

    def heads(student: int, teacher: int) -> int | None:
        relation = bind(
            qq, STUDENT.reshaped(width=student, heads=1), TEACHER.reshaped(width=teacher, heads=1)
        ).transforms[0]
        assert isinstance(relation, transforms.Relation)
        return relation.heads

    assert heads(384, 768) == 48
    assert heads(312, 768) == 24
    assert heads(256, 384) == 32


def test_a_number_of_relation_heads_that_does_not_divide_is_refused_with_some_that_do() -> None:
    qq = compose("minilm_v2", {"minilm_v2": {"relation_heads": 7}}).stages["inter"][0]
    with pytest.raises(UsageError) as refusal:
        bind(qq, STUDENT, TEACHER)
    assert "7 relation heads do not divide both widths: student 24, teacher 24" in str(
        refusal.value
    )
    assert "1, 2, 3" in str(refusal.value)


def test_a_layer_that_does_not_exist_is_refused() -> None:
    qq = compose("minilm_v2", {"minilm_v2": {"teacher_layer": 9}}).stages["inter"][0]
    with pytest.raises(UsageError) as refusal:
        bind(qq, STUDENT, TEACHER)
    assert "teacher layer 9 does not exist: the teacher has 4" in str(refusal.value)


def test_pkd_skip_of_a_single_layer_student_has_nothing_to_match() -> None:
    plain = next(t for t in compose("pkd", {}).stages["pred"] if t.name == "pkd/patient")
    with pytest.raises(UsageError) as refusal:
        bind(plain, STUDENT.reshaped(layers=1), TEACHER)
    assert "leaves no layer" in str(refusal.value)


def test_a_reduction_for_other_positions_is_refused() -> None:
    term = Term("odd", extract.hidden, objectives.MSE(), reduction.mean_pair, matching.Uniform())
    with pytest.raises(UsageError) as refusal:
        bind(term, STUDENT, TEACHER)
    assert "mean_pair does not reduce 'tok' values" in str(refusal.value)


def test_gold_labels_ask_nothing_of_the_teacher() -> None:
    (labels,) = compose("finetune", {}).stages["pred"]
    bound = bind(labels, STUDENT, TEACHER)
    assert bound.requests("teacher") == frozenset()
    assert len(bound.requests("student")) == 1
