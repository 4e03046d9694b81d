"""Closed forms and limits of methods.md section 8, in float64, and NumPy twins."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.unit.distill import twins
from toolchain.distill import objectives, reduction
from toolchain.distill.context import Context
from toolchain.distill.transforms import L2Norm, Pool, Relation

AROUND = Context(mask_BN=torch.ones(1, 1, dtype=torch.long))


def around(mask: torch.Tensor) -> Context:
    return Context(mask_BN=mask)


def removed(outcomes: torch.Tensor) -> Context:
    return dataclasses.replace(AROUND, outcomes=outcomes)


g = torch.Generator().manual_seed(3)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("tau", [1.0, 4.0, 10.0])
def test_the_gradient_of_kl_is_tau_times_the_difference_of_probabilities(tau: float) -> None:
    student, teacher = draw(5, 7).requires_grad_(True), draw(5, 7)
    objectives.KL(tau)(student, teacher, AROUND).sum().backward()
    expected = tau * ((student / tau).softmax(-1) - (teacher / tau).softmax(-1))
    assert student.grad is not None
    torch.testing.assert_close(student.grad, expected, atol=1e-12, rtol=1e-9)


def test_kl_tends_to_half_the_mean_square_of_centred_logits_for_large_tau() -> None:
    student, teacher = draw(6, 5), draw(6, 5)
    difference = teacher - student
    limit = 0.5 * (difference - difference.mean(-1, keepdim=True)).square().mean(-1)
    value = objectives.KL(100.0)(student, teacher, AROUND)
    torch.testing.assert_close(value, limit, rtol=2e-2, atol=0)
    value = objectives.KL(10_000.0)(student, teacher, AROUND)
    torch.testing.assert_close(value, limit, rtol=2e-3, atol=0)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_kl_agrees_with_its_slow_twin(tau: float) -> None:
    student, teacher = draw(4, 6), draw(4, 6)
    ours = objectives.KL(tau)(student, teacher, AROUND).numpy()
    twin = [twins.kl(s, t, tau) for s, t in zip(student.numpy(), teacher.numpy(), strict=True)]
    np.testing.assert_allclose(ours, twin, rtol=1e-10)


def test_soft_cross_entropy_is_kl_plus_the_teachers_entropy() -> None:
    student, teacher, tau = draw(4, 6), draw(4, 6), 2.5
    soft = objectives.SoftCrossEntropy(tau)(student, teacher, AROUND)
    p = (teacher / tau).softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    torch.testing.assert_close(
        soft, objectives.KL(tau)(student, teacher, AROUND) + tau**2 * entropy
    )


def test_cross_entropy_is_that_of_torch() -> None:
    logits, labels = draw(5, 4), torch.tensor([0, 3, 1, 2, 2])
    ours = objectives.CrossEntropy()(logits, labels, AROUND)
    theirs = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "objective",
    [objectives.KL(1.0), objectives.KL(4.0), objectives.SoftCrossEntropy(2.0), objectives.MSE()],
)
def test_gradients_are_those_of_finite_differences(objective: objectives.Objective) -> None:
    student, teacher = draw(3, 5).requires_grad_(True), draw(3, 5)
    assert torch.autograd.gradcheck(lambda s: objective(s, teacher, AROUND), (student,))


def test_removed_outcomes_change_neither_value_nor_gradient() -> None:
    student, teacher = draw(3, 6).requires_grad_(True), draw(3, 6)
    keep = torch.tensor([True, True, True, True, False, False])
    objectives.KL(2.0)(student, teacher, removed(keep)).sum().backward()
    assert student.grad is not None
    assert student.grad[:, 4:].abs().max() == 0
    short = objectives.KL(2.0)(student[:, :4], teacher[:, :4], AROUND)
    torch.testing.assert_close(objectives.KL(2.0)(student, teacher, removed(keep)), short)


def test_a_row_without_outcomes_gives_no_nan() -> None:
    nothing = torch.zeros(5, dtype=torch.bool)
    assert objectives.KL()(draw(2, 5), draw(2, 5), removed(nothing)).isfinite().all()


def test_half_precision_inputs_are_compared_in_float32() -> None:
    student, teacher = draw(4, 8).bfloat16(), draw(4, 8).bfloat16()
    for objective in (objectives.KL(2.0), objectives.MSE(), objectives.SoftCrossEntropy()):
        value = objective(student, teacher, AROUND)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, objective(student.float(), teacher.float(), AROUND))


def test_pkd_of_normalised_states_is_two_minus_two_cosines() -> None:
    student, teacher = draw(6, 9, 16), draw(6, 9, 16)
    mask = torch.ones(6, 9)
    pool, norm = Pool("cls"), L2Norm()
    s, t = (norm(pool(x, around(mask), None), around(mask), None) for x in (student, teacher))
    values = objectives.MSE()(s, t, AROUND)
    cosine = torch.cosine_similarity(student[:, 0], teacher[:, 0], dim=-1)
    expected = (2 - 2 * cosine).sum()
    torch.testing.assert_close(
        reduction.sum_feat_mean_cls.numerators(values, around(mask)).sum(), expected
    )
    mean = reduction.mean_feat_mean_cls.numerators(values, around(mask)).sum()
    torch.testing.assert_close(mean, expected / 16)


def test_relations_and_their_divergence_agree_with_slow_twins(mask: torch.Tensor) -> None:
    student, teacher = draw(3, 7, 12), draw(3, 7, 24)
    relate = Relation(heads=4)
    s, t = (relate(x, around(mask), None) for x in (student, teacher))
    np.testing.assert_allclose(s.numpy(), twins.relation(student.numpy(), 4), rtol=1e-10)
    keys = mask.bool()[:, None, None, :]
    values = objectives.KL()(s, t, removed(keys))
    r = reduction.mean_query
    ours = float(r.numerators(values, around(mask)).sum()) / r.denominator(around(mask))
    twin = twins.masked_mean_kl_of_maps(s.numpy(), t.numpy(), mask.numpy())
    assert ours == pytest.approx(twin, rel=1e-10)


def test_mse_of_maps_is_a_mean_over_heads_and_valid_pairs(mask: torch.Tensor) -> None:
    student, teacher = draw(3, 2, 7, 7), draw(3, 2, 7, 7)
    r = reduction.mean_pair
    values = objectives.MSE()(student, teacher, AROUND)
    ours = float(r.numerators(values, around(mask)).sum()) / r.denominator(around(mask))
    twin = twins.masked_mse_of_maps(student.numpy(), teacher.numpy(), mask.numpy())
    assert ours == pytest.approx(twin, rel=1e-10)


def test_one_relation_head_is_blind_to_rotations_and_several_are_not() -> None:
    x = draw(2, 5, 16)
    rotation, _ = torch.linalg.qr(draw(16, 16))
    mask = torch.ones(2, 5)
    one, four = Relation(heads=1), Relation(heads=4)
    torch.testing.assert_close(one(x @ rotation, around(mask), None), one(x, around(mask), None))
    assert not torch.allclose(four(x @ rotation, around(mask), None), four(x, around(mask), None))


def test_mean_pooling_leaves_padding_out(mask: torch.Tensor) -> None:
    x = draw(3, 7, 4)
    pooled = Pool("mean")(x, around(mask), None)
    for b, length in enumerate(mask.sum(-1).tolist()):
        torch.testing.assert_close(pooled[b], x[b, :length].mean(0))
