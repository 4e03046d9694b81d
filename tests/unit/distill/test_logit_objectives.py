"""Objectives on logits: closed forms and limits of methods.md section 8, in float64, and twins."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.distill import twins
from toolchain.distill import objectives
from toolchain.distill.context import Context, Moment
from toolchain.distill.objectives import Objective
from toolchain.distill.objectives.pace import Pace
from toolchain.distill.shapes import Shape, Unfit
from toolchain.errors import UsageError

CLASSES = 6
LABELS = torch.tensor([0, 5, 2, 2, 1])
AROUND = Context(mask_BN=torch.ones(5, 1, dtype=torch.long), labels_P=LABELS)
g = torch.Generator().manual_seed(11)
some = settings(max_examples=25, deadline=None)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def pair(seed: int, rows: int = 5, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    own = torch.Generator().manual_seed(seed)
    both = 2 * torch.randn(2, rows, classes, generator=own, dtype=torch.float64)
    return both[0], both[1]


def at(progress: float) -> Context:
    steps = 1_000_000
    return dataclasses.replace(AROUND, moment=Moment(step=round(progress * steps), steps=steps))


def value(objective: Objective, student: Tensor, teacher: Tensor, around: Context = AROUND):
    return objective(student, teacher, around, objective.module())


def logits(features: int | None = CLASSES) -> Shape:
    return Shape(positions="logits", features=features)


ROWWISE: dict[str, tuple[Objective, Callable[[np.ndarray, np.ndarray], float]]] = {
    "rkl": (objectives.RKL(tau=2.0), lambda s, t: twins.rkl(s, t, 2.0)),
    "gjs": (objectives.GJS(beta=0.3, tau=1.5), lambda s, t: twins.gjs(s, t, 0.3, 1.5)),
    "gjs_0": (objectives.GJS(beta=0.0, tau=3.0), lambda s, t: twins.kl(s, t, 3.0)),
    "gjs_1": (objectives.GJS(beta=1.0, tau=3.0), lambda s, t: twins.rkl(s, t, 3.0)),
    "skl": (objectives.SKL(alpha=0.1, tau=2.0), lambda s, t: twins.skl(s, t, 0.1, 2.0)),
    "srkl": (objectives.SRKL(alpha=0.1, tau=2.0), lambda s, t: twins.srkl(s, t, 0.1, 2.0)),
    "akl": (objectives.AKL(mu=0.5, tau=1.5), lambda s, t: twins.akl(s, t, 0.5, 1.5)),
    "pearson_inter": (objectives.PearsonInter(), lambda s, t: 1 - twins.pearson(s, t)),
    "l1_sorted": (objectives.L1Sorted(), lambda s, t: twins.l1_sorted(s, t)),
    "hinge_mse": (
        objectives.HingeMSE(margin=3.0, tau_max=5),
        lambda s, t: twins.hinge(s, t, 3.0, 0.2),
    ),
    "taid": (objectives.TAID(tau=2.0), lambda s, t: twins.taid(s, t, 0.4, 2.0)),
    "topk_kl": (objectives.TopKKL(k=3, tau=2.0), lambda s, t: twins.topk_kl(s, t, 3, 2.0)),
}
LABELLED = {
    "tckd": (objectives.TCKD(tau=4.0), twins.tckd),
    "nckd": (objectives.NCKD(tau=4.0), twins.nckd),
}
EVERY = [o for o, _ in (*ROWWISE.values(), *LABELLED.values())] + [objectives.PearsonIntra()]


def by_key(objective: Objective) -> str:
    return repr(objective)


@pytest.mark.parametrize("name", ROWWISE)
@some
@given(seed=st.integers(0, 10_000))
def test_every_row_agrees_with_its_slow_twin(name: str, seed: int) -> None:
    objective, twin = ROWWISE[name]
    student, teacher = pair(seed)
    ours = value(objective, student, teacher).numpy()
    slow = [twin(s, t) for s, t in zip(student.numpy(), teacher.numpy(), strict=True)]
    np.testing.assert_allclose(ours, slow, rtol=1e-9, atol=1e-12)


@some
@given(seed=st.integers(0, 10_000))
def test_correlations_within_classes_agree_with_their_slow_twin(seed: int) -> None:
    student, teacher = pair(seed, rows=7)
    ours = value(objectives.PearsonIntra(), student, teacher)
    assert ours.shape == (7,)
    slow = twins.pearson_intra(student.numpy(), teacher.numpy())
    np.testing.assert_allclose(ours.numpy(), slow, rtol=1e-9)


@pytest.mark.parametrize("name", LABELLED)
@some
@given(seed=st.integers(0, 10_000))
def test_every_labelled_row_agrees_with_its_slow_twin(name: str, seed: int) -> None:
    objective, twin = LABELLED[name]
    student, teacher = pair(seed)
    rows = zip(student.numpy(), teacher.numpy(), LABELS.tolist(), strict=True)
    slow = [twin(s, t, y, 4.0) for s, t, y in rows]
    np.testing.assert_allclose(value(objective, student, teacher), slow, rtol=1e-9, atol=1e-12)


# AKL and TAID hold a part fixed, which finite differences would move: they come after.
@pytest.mark.parametrize(
    "objective",
    [o for o in EVERY if not isinstance(o, objectives.AKL | objectives.TAID)],
    ids=by_key,
)
def test_gradients_are_those_of_finite_differences(objective: Objective) -> None:
    student, teacher = draw(5, CLASSES).requires_grad_(True), draw(5, CLASSES)
    assert torch.autograd.gradcheck(lambda s: value(objective, s, teacher), (student,))


def test_the_gradient_of_akl_takes_its_weights_as_given() -> None:
    student, teacher = draw(5, CLASSES).requires_grad_(True), draw(5, CLASSES)
    value(objectives.AKL(), student, teacher).sum().backward()
    p, q = teacher.softmax(-1), student.detach().softmax(-1)
    for row in range(5):
        order = p[row].argsort(descending=True)
        size = int((p[row][order].cumsum(-1) < 0.5).sum()) + 1
        gaps = (p[row] - q[row]).abs()
        head, tail = gaps[order[:size]].sum(), gaps[order[size:]].sum()
        forward = q[row] - p[row]
        log_ratio = (q[row] / p[row]).log()
        reverse = q[row] * (log_ratio - (q[row] * log_ratio).sum())
        expected = (head * forward + tail * reverse) / (head + tail)
        assert student.grad is not None
        torch.testing.assert_close(student.grad[row], expected, rtol=1e-9, atol=1e-12)


def test_the_gradient_of_taid_takes_its_target_as_given() -> None:
    objective = objectives.TAID(start=0.3, tau=2.0)
    student, teacher = draw(5, CLASSES).requires_grad_(True), draw(5, CLASSES)
    value(objective, student, teacher).sum().backward()
    target = (0.7 * student.detach() + 0.3 * teacher) / 2
    expected = 2 * ((student.detach() / 2).softmax(-1) - target.softmax(-1))
    torch.testing.assert_close(student.grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_the_gradient_of_reverse_kl_is_the_formula_of_the_catalogue(tau: float) -> None:
    student, teacher = draw(5, CLASSES).requires_grad_(True), draw(5, CLASSES)
    reverse = value(objectives.RKL(tau), student, teacher)
    reverse.sum().backward()
    q, p = (student.detach() / tau).softmax(-1), (teacher / tau).softmax(-1)
    divergence = reverse.detach().unsqueeze(-1) / tau**2
    expected = tau * q * (q.log() - p.log() - divergence)
    torch.testing.assert_close(student.grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tau", [1.0, 4.0])
@some
@given(seed=st.integers(0, 10_000))
def test_dkd_with_the_weight_one_minus_p_y_is_kd(tau: float, seed: int) -> None:
    student, teacher = pair(seed)
    p_y = (teacher / tau).softmax(-1).gather(-1, LABELS.unsqueeze(-1)).squeeze(-1)
    target = value(objectives.TCKD(tau), student, teacher)
    rest = value(objectives.NCKD(tau), student, teacher)
    full = value(objectives.KL(tau), student, teacher)
    torch.testing.assert_close(target + (1 - p_y) * rest, full, rtol=1e-9, atol=1e-12)


def test_masking_the_target_to_zero_instead_of_removing_it_is_another_loss() -> None:
    student, teacher = draw(5, CLASSES), draw(5, CLASSES)
    keep = 1.0 - torch.nn.functional.one_hot(LABELS, CLASSES)
    masked = value(objectives.KL(), student * keep, teacher * keep)
    ours = value(objectives.NCKD(), student, teacher)
    assert ((masked - ours).abs() > 1e-3 * ours).all()


def test_a_certain_teacher_leaves_dkd_finite() -> None:
    teacher = torch.nn.functional.one_hot(LABELS, CLASSES).float() * 200
    student = -teacher.clone().requires_grad_(True)
    loss = value(objectives.TCKD(), student, teacher) + value(objectives.NCKD(), student, teacher)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


def test_of_two_classes_dkd_is_kd_and_says_so() -> None:
    student, teacher = draw(5, 2), draw(5, 2)
    around = dataclasses.replace(AROUND, labels_P=LABELS % 2)
    rest = value(objectives.NCKD(4.0), student, teacher, around)
    assert rest.abs().max() == 0
    target = value(objectives.TCKD(4.0), student, teacher, around)
    torch.testing.assert_close(target, value(objectives.KL(4.0), student, teacher))
    assert "always zero" in objectives.NCKD().note(logits(2), logits(2))
    assert objectives.NCKD().note(logits(3), logits(3)) == ""


@some
@given(seed=st.integers(0, 10_000))
def test_the_limits_of_gjs_are_the_two_kls(seed: int) -> None:
    student, teacher = pair(seed)
    # What is left of the limit grows with the ratio of probabilities.
    small = 1e-8
    forward = value(objectives.GJS(beta=small), student, teacher) / small
    reverse = value(objectives.GJS(beta=1 - small), student, teacher) / small
    close = {"rtol": 1e-3, "atol": 1e-6}
    torch.testing.assert_close(forward, value(objectives.KL(), student, teacher), **close)
    torch.testing.assert_close(reverse, value(objectives.RKL(), student, teacher), **close)


def test_gjs_at_a_half_is_symmetric_and_below_log_two() -> None:
    student, teacher = 50 * draw(5, CLASSES), 50 * draw(5, CLASSES)
    js = value(objectives.GJS(0.5), student, teacher)
    torch.testing.assert_close(js, value(objectives.GJS(0.5), teacher, student))
    assert (js <= math.log(2) + 1e-12).all()
    assert js.max() > 0.9 * math.log(2)


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_skews_of_zero_are_the_two_kls(tau: float) -> None:
    student, teacher = draw(5, CLASSES), draw(5, CLASSES)
    skew, reverse = objectives.SKL(0.0, tau), objectives.SRKL(0.0, tau)
    torch.testing.assert_close(
        value(skew, student, teacher), value(objectives.KL(tau), student, teacher)
    )
    torch.testing.assert_close(
        value(reverse, student, teacher), value(objectives.RKL(tau), student, teacher)
    )


@some
@given(
    seed=st.integers(0, 10_000),
    scale=st.floats(0.1, 200),
    alpha=st.floats(0.01, 0.99),
)
def test_skews_never_exceed_minus_log_alpha(seed: int, scale: float, alpha: float) -> None:
    student, teacher = (scale * side for side in pair(seed))
    limit = -math.log(alpha) + 1e-12
    assert (value(objectives.SKL(alpha), student, teacher) <= limit).all()
    assert (value(objectives.SRKL(alpha), student, teacher) <= limit).all()


def test_adaptive_kl_lies_between_forward_and_reverse() -> None:
    student, teacher = draw(200, CLASSES), draw(200, CLASSES)
    both = torch.stack([value(o, student, teacher) for o in (objectives.KL(), objectives.RKL())])
    ours = value(objectives.AKL(), student, teacher)
    assert (both.min(0).values - 1e-12 <= ours).all()
    assert (ours <= both.max(0).values + 1e-12).all()


def test_adaptive_kl_with_everything_in_the_head_is_the_forward_kl() -> None:
    student, teacher = draw(5, CLASSES), draw(5, CLASSES)
    torch.testing.assert_close(
        value(objectives.AKL(mu=1.0), student, teacher), value(objectives.KL(), student, teacher)
    )
    torch.testing.assert_close(
        value(objectives.AKL(mu=0.0), student, teacher), value(objectives.RKL(), student, teacher)
    )


@pytest.mark.parametrize("objective", [objectives.PearsonInter(), objectives.PearsonIntra()])
@some
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_correlations_do_not_see_scale_and_offset(
    objective: Objective, seed: int, scale: float, shift: float
) -> None:
    student, teacher = pair(seed)
    plain = value(objective, student, teacher)
    changed = value(objective, scale * student + shift, 3 * teacher - 2)
    torch.testing.assert_close(changed, plain, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(value(objective, -student, teacher), 2 - plain)


def test_each_row_may_have_its_own_scale_and_offset_between_classes() -> None:
    student, teacher = draw(5, CLASSES), draw(5, CLASSES)
    plain = value(objectives.PearsonInter(), student, teacher)
    scale, shift = draw(5, 1).exp(), draw(5, 1)
    changed = value(objectives.PearsonInter(), scale * student + shift, teacher)
    torch.testing.assert_close(changed, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("objective", [objectives.PearsonInter(), objectives.PearsonIntra()])
@pytest.mark.parametrize("rows", [1, 4])
def test_constant_sides_correlate_with_nothing_and_give_finite_gradients(
    objective: Objective, rows: int
) -> None:
    student = torch.full((rows, CLASSES), 1 / CLASSES).requires_grad_(True)
    loss = value(objective, student, torch.rand(rows, CLASSES, generator=g))
    torch.testing.assert_close(loss, torch.ones(rows))
    loss.sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@some
@given(seed=st.integers(0, 10_000))
def test_sorted_distances_do_not_see_permutations_of_either_vocabulary(seed: int) -> None:
    own = np.random.default_rng(seed)
    student, teacher = pair(seed, classes=6)[0], pair(seed, classes=9)[1]
    plain = value(objectives.L1Sorted(), student, teacher)
    changed = value(
        objectives.L1Sorted(),
        student[:, torch.from_numpy(own.permutation(6))],
        teacher[:, torch.from_numpy(own.permutation(9))],
    )
    torch.testing.assert_close(changed, plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("own", "other"), [(4, 7), (7, 4), (5, 5)])
def test_sorted_distances_pad_the_shorter_side_with_zeros(own: int, other: int) -> None:
    student, teacher = draw(5, own), draw(5, other)
    ours = value(objectives.L1Sorted(), student, teacher).numpy()
    slow = [twins.l1_sorted(s, t) for s, t in zip(student.numpy(), teacher.numpy(), strict=True)]
    np.testing.assert_allclose(ours, slow, rtol=1e-12)
    assert objectives.L1Sorted().resolve(logits(own), logits(other)) == objectives.L1Sorted()


@some
@given(seed=st.integers(0, 10_000), k=st.integers(1, 11), tau=st.floats(0.5, 5))
def test_the_largest_k_and_a_rest_never_exceed_the_full_kl(seed: int, k: int, tau: float) -> None:
    student, teacher = pair(seed, classes=12)
    coarse = value(objectives.TopKKL(k, tau), student, teacher)
    full = value(objectives.KL(tau), student, teacher)
    assert (coarse <= full + 1e-12).all()
    assert (coarse >= -1e-12).all()
    if k == 11:
        torch.testing.assert_close(coarse, full)


def test_k_of_all_outcomes_becomes_the_full_kl() -> None:
    sparse = objectives.TopKKL(k=6, tau=2.0)
    assert sparse.resolve(logits(6), logits(6)) == objectives.KL(2.0)
    assert sparse.resolve(logits(7), logits(7)) == sparse


def test_renormalising_the_largest_k_is_another_loss() -> None:
    student, teacher = draw(5, CLASSES), draw(5, CLASSES)
    ids = teacher.topk(3).indices
    renormalised = value(objectives.KL(), student.gather(-1, ids), teacher.gather(-1, ids))
    ours = value(objectives.TopKKL(3), student, teacher)
    assert ((ours - renormalised).abs() > 1e-3 * ours).all()


def test_the_hinge_of_no_margin_is_the_squared_distance_to_the_faint_teacher() -> None:
    student, teacher = draw(5, CLASSES), draw(5, CLASSES)
    for progress, phi in ((0.0, 0.1), (0.45, 0.5), (0.95, 1.0)):
        ours = value(objectives.HingeMSE(margin=0.0), student, teacher, at(progress))
        torch.testing.assert_close(ours, (student - phi * teacher).square().sum(-1))


def test_rows_within_the_margin_have_neither_loss_nor_gradient() -> None:
    teacher = draw(2, CLASSES)
    near = teacher + torch.tensor([[0.01], [3.0]])
    student = near.clone().requires_grad_(True)
    loss = value(objectives.HingeMSE(margin=1.0), student, teacher, at(0.95))
    loss.sum().backward()
    assert loss[0] == 0
    assert student.grad is not None
    assert student.grad[0].abs().max() == 0
    torch.testing.assert_close(loss[1], (near - teacher)[1].square().sum() - 1.0)
    torch.testing.assert_close(student.grad[1], 2 * (near - teacher)[1])


def fixed(t: float) -> objectives.TAID:
    return objectives.TAID(start=t, end=t)


def test_taid_at_zero_has_no_loss_and_no_gradient() -> None:
    student, teacher = draw(5, CLASSES).requires_grad_(True), draw(5, CLASSES)
    loss = value(fixed(0.0), student, teacher)
    loss.sum().backward()
    assert loss.abs().max() < 1e-14
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-14


def test_taid_at_one_is_the_kl_in_value_and_gradient() -> None:
    student, teacher = draw(5, CLASSES).requires_grad_(True), draw(5, CLASSES)
    loss = value(fixed(1.0), student, teacher)
    full = value(objectives.KL(), student, teacher)
    torch.testing.assert_close(loss, full, rtol=1e-12, atol=1e-14)
    (ours,) = torch.autograd.grad(loss.sum(), student, retain_graph=True)
    (theirs,) = torch.autograd.grad(full.sum(), student)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@some
@given(
    losses=st.lists(st.floats(0.1, 10), min_size=30, max_size=30),
    alpha=st.sampled_from([0.0, 5e-4, 0.2]),
)
def test_the_share_of_the_teacher_follows_the_published_rule(
    losses: list[float], alpha: float
) -> None:
    pace, steps = Pace(0.4, 1.0, alpha, 0.9), len(losses)
    shares = []
    for step, loss in enumerate(losses):
        shares.append(pace.at(Moment(step=step, steps=steps)))
        pace.observe(loss)
    slow = twins.taid_pace(losses, steps, alpha=alpha, momentum=0.9)
    np.testing.assert_allclose(shares, slow, rtol=1e-12)
    line = [0.4 + 0.6 * step / steps for step in range(steps)]
    assert all(t >= floor - 1e-15 for t, floor in zip(shares, line, strict=True))
    assert shares == sorted(shares)
    assert shares[-1] <= 1.0


def test_the_share_is_the_same_however_often_a_step_asks_for_it() -> None:
    """Pieces of a large batch are computed again in the backward pass, after the observation."""
    pace = Pace(0.4, 1.0, 0.5, 0.9)
    for step in range(3):
        moment = Moment(step=step, steps=100)
        first = pace.at(moment)
        pace.observe(1.0 / (step + 1))
        assert pace.at(moment) == first
    assert pace.at(Moment(step=3, steps=100)) > 0.6


def test_a_step_without_the_term_changes_nothing_of_the_pace() -> None:
    pace = Pace(0.4, 1.0, 0.5, 0.9)
    pace.observe(1.0)
    before = {name: buffer.clone() for name, buffer in pace.named_buffers()}
    pace.observe(0.0)
    for name, buffer in pace.named_buffers():
        assert torch.equal(buffer, before[name])


def test_a_resumed_pace_goes_on_as_if_nothing_had_happened() -> None:
    whole, first = Pace(0.4, 1.0, 0.1, 0.9), Pace(0.4, 1.0, 0.1, 0.9)
    moments = [Moment(step=step, steps=40) for step in range(40)]
    straight = []
    for moment in moments:
        straight.append(whole.at(moment))
        whole.observe(5.0 / (moment.step + 1))
    halves = []
    for moment in moments:
        if moment.step == 17:
            second = Pace(0.4, 1.0, 0.1, 0.9)
            second.load_state_dict(first.state_dict())
            first = second
        halves.append(first.at(moment))
        first.observe(5.0 / (moment.step + 1))
    assert halves == straight


@pytest.mark.parametrize("objective", EVERY, ids=by_key)
def test_half_precision_inputs_are_compared_in_float32(objective: Objective) -> None:
    student, teacher = draw(5, CLASSES).bfloat16(), draw(5, CLASSES).bfloat16()
    ours = value(objective, student, teacher)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, value(objective, student.float(), teacher.float()))


@pytest.mark.parametrize("objective", [o for o in EVERY if o.rowwise], ids=by_key)
def test_a_row_depends_on_itself_alone(objective: Objective) -> None:
    student, teacher = draw(5, CLASSES), draw(5, CLASSES)
    whole = value(objective, student, teacher)
    one = dataclasses.replace(AROUND, labels_P=LABELS[3:4])
    alone = value(objective, student[3:4], teacher[3:4], one)
    torch.testing.assert_close(alone, whole[3:4], rtol=1e-12, atol=1e-14)


def test_correlations_within_classes_belong_to_the_whole_batch() -> None:
    student, teacher = draw(6, CLASSES), draw(6, CLASSES)
    intra = objectives.PearsonIntra()
    assert not intra.rowwise
    halves = (value(intra, student[i : i + 3], teacher[i : i + 3])[0] for i in (0, 3))
    assert abs(float(sum(halves)) / 2 - float(value(intra, student, teacher)[0])) > 1e-3


@pytest.mark.parametrize("objective", [o for o in EVERY if o.zero_at_equality], ids=by_key)
def test_equal_sides_have_no_loss_and_no_gradient(objective: Objective) -> None:
    teacher = 3 * draw(5, CLASSES)
    student = teacher.clone().requires_grad_(True)
    loss = value(objective, student, teacher)
    loss.sum().backward()
    assert loss.abs().max() < 1e-13
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("objective", [o for o in EVERY if o.distribution], ids=by_key)
def test_a_regression_has_no_distribution(objective: Objective) -> None:
    with pytest.raises(Unfit, match="one number and no distribution"):
        objective.resolve(logits(1), logits(1))


@pytest.mark.parametrize(
    "objective", [o for o in EVERY if not isinstance(o, objectives.L1Sorted)], ids=by_key
)
def test_unequal_outcomes_are_refused_but_by_the_one_that_sorts(objective: Objective) -> None:
    with pytest.raises(Unfit, match="the student has 6, the teacher 7"):
        objective.resolve(logits(6), logits(7))


@pytest.mark.parametrize(
    ("objective", "shape"),
    [
        (objectives.TCKD(), Shape(positions="tok", features=4)),
        (objectives.NCKD(), Shape(positions="pair", heads=2)),
        (objectives.L1Sorted(), Shape(positions="tok", features=4)),
        (objectives.PearsonIntra(), Shape(positions="tok", features=4)),
        (objectives.PearsonInter(), Shape(positions="pair", heads=2)),
        (objectives.PearsonInter(), Shape(positions="cls", features=1)),
        (objectives.TopKKL(), Shape(positions="pair", heads=2)),
    ],
    ids=repr,
)
def test_shapes_that_mean_nothing_are_refused(objective: Objective, shape: Shape) -> None:
    with pytest.raises(Unfit):
        objective.resolve(shape, shape)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: objectives.GJS(beta=1.5), "gjs: beta is 1.5, expected a number from 0 to 1"),
        (lambda: objectives.SKL(alpha=1.0), "skl: alpha is 1, expected a number from 0 to below 1"),
        (lambda: objectives.SRKL(alpha=-0.1), "srkl: alpha is -0.1"),
        (lambda: objectives.AKL(mu=2.0), "akl: mu is 2"),
        (lambda: objectives.RKL(tau=0.0), "rkl: tau is 0, expected a number above 0"),
        (lambda: objectives.TCKD(tau=-1.0), "tckd: tau is -1"),
        (lambda: objectives.NCKD(tau=float("nan")), "nckd: tau is nan"),
        (lambda: objectives.TopKKL(k=0), "topk_kl: k is 0"),
        (lambda: objectives.TAID(start=0.9, end=0.5), "taid: it runs from 0.9 to 0.5"),
        (lambda: objectives.TAID(momentum=1.0), "taid: momentum is 1"),
        (lambda: objectives.HingeMSE(margin=-1.0), "hinge_mse: margin is -1"),
        (lambda: objectives.HingeMSE(tau_max=0), "tau_max is 0, expected 1 or more"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    build: Callable[[], Objective], sentence: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        build()
    assert sentence in str(refusal.value)
