"""Methods on logits, their transforms and schedules: identities between them, and the engine."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.distill import twins
from tests.unit.distill.conftest import STUDENT, TEACHER, Side, loss_of
from toolchain.distill import distiller as engine
from toolchain.distill import extract, objectives, schedules, transforms
from toolchain.distill.compose import compose
from toolchain.distill.context import Context, Moment
from toolchain.distill.distiller import Distiller
from toolchain.distill.extract import Request
from toolchain.distill.shapes import Shape, Unfit
from toolchain.distill.term import BoundTerm, bind
from toolchain.errors import UsageError
from toolchain.plan import make_plan
from toolchain.recipe import load_recipe
from toolchain.spec import ModelSpec

ROWS, CLASSES = 8, 6
SPEC = dataclasses.replace(STUDENT, num_labels=CLASSES)
AROUND = Context(mask_BN=torch.ones(ROWS, 1, dtype=torch.long))
MASK = AROUND.mask_BN
LABELS = torch.arange(ROWS) % CLASSES
g = torch.Generator().manual_seed(23)
some = settings(max_examples=25, deadline=None)

ON_LOGITS = [
    "akl",
    "annealing_kd",
    "continuation_kd",
    "dist",
    "dkd",
    "gjs",
    "logit_std",
    "pd",
    "rkl",
    "skl",
    "srkl",
    "taid",
    "topk_kd",
    "uld",
]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def logits(features: int | None = CLASSES) -> Shape:
    return Shape(positions="logits", features=features)


def side(values: Tensor) -> Side:
    return Side(SPEC, {Request("logits"): values})


def bound(method: str, stage: str = "pred", **options: float) -> tuple[BoundTerm, ...]:
    terms = compose(method, {method: options} if options else {}).stages[stage]  # type: ignore[index]
    return tuple(bind(term, SPEC, SPEC) for term in terms)


def bound_all(method: str, student: ModelSpec, teacher: ModelSpec) -> list[BoundTerm]:
    stages = compose(method, {}).stages.values()
    return [bind(term, student, teacher) for terms in stages for term in terms]


def loss(
    terms: tuple[BoundTerm, ...],
    student: Tensor,
    teacher: Tensor,
    moment: Moment | None = None,
    distiller: Distiller | None = None,
) -> Tensor:
    given = {"moment": moment, "distiller": distiller}
    return loss_of(terms, side(student), side(teacher), MASK, LABELS, **given).total


# Schedules and what they drive


def test_phi_runs_through_all_seven_steps() -> None:
    phi = schedules.StepAnneal(tau_max=7)
    assert [phi(epoch / 7) for epoch in range(7)] == [k / 7 for k in range(1, 8)]
    assert phi(1.0) == 1.0
    steps = 700
    seen = [phi(step / steps) for step in range(steps)]
    assert seen == sorted(seen)
    assert {value: seen.count(value) for value in seen} == {k / 7: 100 for k in range(1, 8)}


@some
@given(tau_max=st.integers(1, 40), step=st.integers(0, 999))
def test_phi_agrees_with_its_slow_twin_and_the_published_form(tau_max: int, step: int) -> None:
    phi = schedules.StepAnneal(tau_max)(step / 1000)
    assert phi == pytest.approx(twins.phi(tau_max, step / 1000), rel=1e-12)
    temperature = np.ceil(round(tau_max * (1 - step / 1000), 9))
    assert phi == pytest.approx(1 - (temperature - 1) / tau_max, rel=1e-12)


def test_phi_may_reach_one_before_the_end() -> None:
    phi = schedules.StepAnneal(tau_max=4, ends=0.5)
    values = [phi(p) for p in (0, 0.124, 0.125, 0.374, 0.375, 0.5, 0.9)]
    assert values == [0.25, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_labels_grow_to_a_half_by_two_thirds_and_jump_to_one() -> None:
    psi = schedules.LinearThen(0.0, 0.5, 2 / 3, 1.0)
    epochs = 30
    for epoch in range(epochs):
        expected = epoch / 40 if epoch < 20 else 1.0
        assert psi(epoch / epochs) == pytest.approx(expected)


@pytest.mark.parametrize(
    "build",
    [
        lambda: schedules.StepAnneal(0),
        lambda: schedules.StepAnneal(3, ends=0.0),
        lambda: schedules.LinearThen(0.0, 0.5, 1.5, 1.0),
        lambda: transforms.Anneal(tau_max=-1),
    ],
)
def test_schedules_that_cannot_run_are_refused(build: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match="schedule"):
        build()


def test_annealing_makes_the_teacher_faint_and_leaves_the_student() -> None:
    (term,) = bound("annealing_kd", "inter")
    student, teacher = draw(ROWS, CLASSES), draw(ROWS, CLASSES)
    for epoch in range(7):
        ours = loss((term,), student, teacher, Moment(step=epoch, steps=7))
        expected = (student - (epoch + 1) / 7 * teacher).square().sum(-1).mean()
        torch.testing.assert_close(ours, expected)


def test_continuation_without_margin_and_with_a_single_step_is_annealing_step_by_step() -> None:
    """Section 8, test 10: the same trajectory of logits under gradient descent, both phases."""
    steps = 28
    one = bound("continuation_kd", margin=0.0, tau_max=7, until=0.5, half=0.0, ends=0.5)
    phases = [bound("annealing_kd", stage) for stage in ("inter", "pred")]
    teacher, start = 3 * draw(ROWS, CLASSES), draw(ROWS, CLASSES)
    ours, theirs = start.clone(), start.clone()
    for step in range(steps):
        ours = descended(ours, one, teacher, Moment(step=step, steps=steps))
        half = steps // 2
        phase = phases[step // half]
        theirs = descended(theirs, phase, teacher, Moment(step=step % half, steps=half))
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert (ours - start).abs().max() > 0.1


def descended(
    values: Tensor, terms: tuple[BoundTerm, ...], teacher: Tensor, moment: Moment
) -> Tensor:
    leaf = values.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(terms, leaf, teacher, moment), leaf)
    return values - 0.5 * gradient


def test_continuation_weighs_labels_and_regression_by_psi() -> None:
    terms = bound("continuation_kd")
    student, teacher = draw(ROWS, CLASSES), 3 * draw(ROWS, CLASSES)
    hard = torch.nn.functional.cross_entropy(student, LABELS)
    for step in range(30):
        psi = step / 40 if step < 20 else 1.0
        phi = (step // 3 + 1) / 10
        hinge = np.mean(
            [twins.hinge(s, t, 1.0, phi) for s, t in zip(student, teacher, strict=True)]
        )
        ours = loss(terms, student, teacher, Moment(step=step, steps=30))
        assert float(ours) == pytest.approx(psi * float(hard) + (1 - psi) * float(hinge))


# Transforms


@some
@given(seed=st.integers(0, 10_000))
def test_z_scores_and_probabilities_agree_with_their_slow_twins(seed: int) -> None:
    own = torch.Generator().manual_seed(seed)
    x = 4 * torch.randn(ROWS, CLASSES, generator=own, dtype=torch.float64)
    z = transforms.ZScore()(x, AROUND, None)
    np.testing.assert_allclose(z, [twins.zscore(row) for row in x.numpy()], rtol=1e-10)
    p = transforms.Softmax(2.0)(x, AROUND, None)
    np.testing.assert_allclose(p, [twins.softmax(row / 2) for row in x.numpy()], rtol=1e-12)


@some
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 100), shift=st.floats(-10, 10))
def test_z_scores_do_not_see_a_rows_scale_and_offset(seed: int, scale: float, shift: float) -> None:
    own = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, CLASSES, generator=own, dtype=torch.float64)
    score = transforms.ZScore()
    changed = score(scale * x + shift, AROUND, None)
    # eps is all that sees the scale.
    torch.testing.assert_close(changed, score(x, AROUND, None), rtol=2e-5, atol=1e-7)


def test_standardised_kd_and_dist_do_not_see_scale_and_offset() -> None:
    student, teacher = draw(ROWS, CLASSES), draw(ROWS, CLASSES)
    scale, shift = draw(ROWS, 1).exp(), draw(ROWS, 1)
    soft = tuple(b for b in bound("logit_std") if b.term.extract == extract.logits)
    changed = loss(soft, scale * student + shift, teacher)
    torch.testing.assert_close(changed, loss(soft, student, teacher), rtol=1e-5, atol=0)
    plain = tuple(b for b in bound("dkd") if b.term.extract == extract.logits)
    assert not torch.allclose(
        loss(plain, scale * student + shift, teacher), loss(plain, student, teacher), rtol=1e-3
    )


def test_z_scores_and_their_gradients_are_finite_on_constant_rows() -> None:
    x = torch.zeros(2, CLASSES, requires_grad=True)
    z = transforms.ZScore()(x, AROUND, None)
    z.square().sum().backward()
    assert z.abs().max() == 0
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_gradients_of_transforms_are_those_of_finite_differences() -> None:
    x = draw(3, 5).requires_grad_(True)
    for transform in (transforms.ZScore(), transforms.Softmax(3.0), transforms.Anneal()):
        assert torch.autograd.gradcheck(lambda v, f=transform: f(v, AROUND, None), (x,))


def test_a_single_number_has_no_z_score_and_no_probability() -> None:
    for transform in (transforms.ZScore(), transforms.Softmax()):
        with pytest.raises(Unfit, match="single number"):
            transform.resolve(logits(1), logits(1))
    with pytest.raises(Unfit, match="cannot be standardised"):
        transforms.ZScore().resolve(logits(None), logits(None))


def test_of_two_outcomes_z_scores_keep_only_which_is_larger_and_say_so() -> None:
    score = transforms.ZScore()
    assert score.resolve(logits(2), logits(2)) == score
    z = score(draw(ROWS, 2), AROUND, None).abs()
    torch.testing.assert_close(z, torch.ones(ROWS, 2, dtype=torch.float64), rtol=1e-5, atol=0)
    assert "which one is larger" in score.note(logits(2), logits(2))
    assert score.note(logits(3), logits(3)) == ""
    assert "which one is larger" in objectives.PearsonInter().note(logits(2), logits(2))


# Methods


def test_pd_is_the_soft_cross_entropy_alone() -> None:
    student, teacher = draw(ROWS, CLASSES), draw(ROWS, CLASSES)
    (term,) = bound("pd")
    expected = -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(loss((term,), student, teacher), expected)


def test_dkd_adds_both_parts_and_the_labels_after_its_warmup() -> None:
    student, teacher = draw(ROWS, CLASSES), draw(ROWS, CLASSES)
    terms = bound("dkd", tau=3.0, alpha=0.5, beta=6.0, warmup=0.25)
    rows = list(zip(student.numpy(), teacher.numpy(), LABELS.tolist(), strict=True))
    soft = np.mean([0.5 * twins.tckd(*row, 3.0) + 6 * twins.nckd(*row, 3.0) for row in rows])
    hard = float(torch.nn.functional.cross_entropy(student, LABELS))
    for step, part in ((0, 0.0), (10, 0.4), (25, 1.0), (90, 1.0)):
        ours = loss(terms, student, teacher, Moment(step=step, steps=100))
        assert float(ours) == pytest.approx(hard + part * float(soft))


def test_dist_adds_both_correlations_scaled_by_tau_squared() -> None:
    student, teacher = draw(ROWS, CLASSES), draw(ROWS, CLASSES)
    p, q = ((x / 4).softmax(-1).numpy() for x in (teacher, student))
    inter = np.mean([1 - twins.pearson(a, b) for a, b in zip(q, p, strict=True)])
    intra = twins.pearson_intra(q, p)
    hard = float(torch.nn.functional.cross_entropy(student, LABELS))
    ours = loss(bound("dist", beta=2.0, gamma=3.0, tau=4.0), student, teacher)
    assert float(ours) == pytest.approx(hard + 16 * (2 * inter + 3 * intra))


def test_dist_without_gamma_leaves_the_correlations_within_classes_out() -> None:
    assert [b.name for b in bound("dist", gamma=0.0)] == ["dist/inter", "dist/labels"]


def test_uld_fits_unequal_vocabularies_and_kd_does_not() -> None:
    small, large = (
        dataclasses.replace(STUDENT, task="causal_lm", causal=True, vocab=v) for v in (40, 50)
    )
    terms = {t.name: t for t in compose("uld", {}).stages["pred"]}
    (student, teacher), labels = (draw(ROWS, 40), draw(ROWS, 50)), LABELS
    sorted_term = (bind(terms["uld/sorted"], small, large),)
    ours = loss_of(sorted_term, side(student), side(teacher), MASK, labels).total
    rows = zip(student.numpy(), teacher.numpy(), strict=True)
    slow = 1.5 * np.mean([twins.l1_sorted(s, t) for s, t in rows])
    assert float(ours) == pytest.approx(float(slow))
    for name in ON_LOGITS:
        if name != "uld":
            with pytest.raises(UsageError, match="the student has 40, the teacher 50"):
                bound_all(name, small, large)


@pytest.mark.parametrize("name", ON_LOGITS)
def test_a_regression_is_refused_where_there_is_no_distribution(name: str) -> None:
    scores = dataclasses.replace(STUDENT, task="regress", num_labels=1)
    if name in ("pd", "annealing_kd", "continuation_kd"):
        assert bound_all(name, scores, scores)
        return
    with pytest.raises(UsageError) as refusal:
        bound_all(name, scores, scores)
    assert refusal.value.hint


def test_top_k_of_few_classes_is_kd() -> None:
    (soft, _) = bound("topk_kd")
    assert soft.objective == objectives.KL()


# The engine


@pytest.mark.parametrize("name", ON_LOGITS)
def test_computing_in_pieces_changes_neither_value_nor_gradient(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in compose(name, {}).stages:
        terms = bound(name, stage)
        student, teacher = draw(ROWS, CLASSES), draw(ROWS, CLASSES)
        whole, in_pieces = (
            moved_twice(terms, student, teacher, monkeypatch, piece) for piece in (1 << 23, 12)
        )
        for a, b in zip(whole, in_pieces, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def moved_twice(
    terms: tuple[BoundTerm, ...],
    student: Tensor,
    teacher: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    piece: int,
) -> list[Tensor]:
    """Values and gradients of two steps, each observed before its backward pass as in training."""
    monkeypatch.setattr(engine, "PIECE", piece)
    distiller = Distiller(terms).double()
    out = []
    for step in (3, 4):
        leaf = (student + step).requires_grad_(True)
        moment = Moment(step=step, steps=10)
        found = loss_of(
            terms, side(leaf), side(teacher), MASK, LABELS, moment=moment, distiller=distiller
        )
        distiller.observe({name: float(v.detach()) for name, v in found.parts.items()})
        found.total.backward()
        assert leaf.grad is not None
        out += [found.total.detach(), leaf.grad]
    return out


def test_the_target_of_taid_moves_with_the_observed_loss() -> None:
    terms = bound("taid", alpha=0.5)
    student, teacher = draw(ROWS, CLASSES), draw(ROWS, CLASSES)
    distiller = Distiller(terms).double()
    losses, shares = [], []
    for step in range(6):
        value = loss(terms, student, teacher, Moment(step=step, steps=1000), distiller)
        losses.append(float(value))
        distiller.observe({"taid/soft": losses[-1]})
        (pace,) = distiller.learned.values()
        shares.append(float(pace.t))
    np.testing.assert_allclose(
        shares, twins.taid_pace([*losses, *[1.0] * 994], 1000, alpha=0.5)[:6]
    )
    expected = [
        np.mean([twins.taid(s, t, share) for s, t in zip(student, teacher, strict=True)])
        for share in shares
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    assert shares[-1] > 0.8


def test_multi_label_classes_are_compared_as_two_outcomes() -> None:
    spec = dataclasses.replace(STUDENT, task="multi_label", num_labels=4)
    z_S, z_T = draw(ROWS), draw(ROWS)
    rows = [torch.stack([torch.zeros_like(z), z], -1) for z in (z_S, z_T)]
    for name in ("rkl", "gjs", "akl", "topk_kd", "dkd"):
        terms = tuple(bind(t, spec, spec) for t in compose(name, {}).stages["pred"])
        value = loss_of(terms, side(rows[0]), side(rows[1]), MASK, LABELS % 2).total
        assert value.isfinite()
    (term,) = (bind(t, spec, spec) for t in compose("rkl", {}).stages["pred"])
    ours = loss_of((term,), side(rows[0]), side(rows[1]), MASK, LABELS % 2).total
    q, p = z_S.sigmoid(), z_T.sigmoid()
    binary = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    torch.testing.assert_close(ours, binary.mean())


def test_the_first_phase_of_annealing_hands_on_its_best_checkpoint(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    asked = {
        "teacher": str(teacher_folder),
        "data": {"path": str(task_folder)},
        "student": {"layers": 2},
        "method": "annealing_kd",
    }
    plan = make_plan(load_recipe(None, asked, []), tmp_path / "out")
    assert [(stage.name, stage.keep_best) for stage in plan.stages] == [
        ("inter", True),
        ("pred", True),
    ]
    first, second = plan.stages
    assert first.needs_teacher
    assert not second.needs_teacher


def test_options_that_mean_nothing_are_refused_when_the_method_is_composed() -> None:
    for name, options in (("gjs", {"beta": 2.0}), ("taid", {"start": -1.0}), ("topk_kd", {"k": 0})):
        with pytest.raises(UsageError, match="expected a number"):
            compose(name, {name: options})


def test_specs_of_students_and_teachers_of_other_shapes_fit() -> None:
    narrow: ModelSpec = dataclasses.replace(TEACHER, layers=1, width=12, heads=1, ffn=12)
    for name in ON_LOGITS:
        assert bound_all(name, narrow, TEACHER)
