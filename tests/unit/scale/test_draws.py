"""Losses against drawn outcomes are right in the mean; what is drawn is repeatable."""

import hashlib

import pytest
import torch
from torch import Tensor

from toolchain.distill.context import Context
from toolchain.distill.objectives import KL
from toolchain.distill.objectives.sparse import SampledKL
from toolchain.scale.draws import drawn
from toolchain.scale.knowledge import Keep

OUTCOMES, TAUS = 40, (1.0, 4.0)
CONTEXT = Context(mask_BN=torch.ones(1, 1), labels_P=None, sample_P=None)


def keeping(draws: int, outcomes: int = OUTCOMES) -> Keep:
    return Keep(
        kind="sampled", unit="answer", width=draws, precision="fp32", outcomes=outcomes, taus=TAUS
    )


def keys(count: int) -> list[bytes]:
    return [hashlib.blake2b(str(i).encode(), digest_size=16).digest() for i in range(count)]


def packed(logits_PC: Tensor, keep: Keep) -> Tensor:
    """Draw for each row, as a sequence of its own, and lay it out as a cache gives it."""
    found = drawn(logits_PC, keep, keys(len(logits_PC)), [1] * len(logits_PC))
    return torch.cat([found["sampled.entropy"], found["sampled.ids"].float()], dim=-1)


def near(found_NX: Tensor, expected_X: Tensor) -> bool:
    """Whether means of N values are within five standard errors of what is expected."""
    error = found_NX.std(0) / len(found_NX) ** 0.5
    return bool(((found_NX.mean(0) - expected_X).abs() <= 5 * error + 1e-6).all())


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("draws", [1, 8])
def test_every_outcome_is_drawn_as_often_as_it_is_probable(tau: float, draws: int) -> None:
    logits = 2 * torch.randn(1, OUTCOMES, generator=torch.Generator().manual_seed(0))
    first = len(TAUS) + TAUS.index(tau) * draws
    found = packed(logits.expand(4000, -1), keeping(draws))[:, first : first + draws].long()
    shares = torch.nn.functional.one_hot(found, OUTCOMES).double().mean((0, 1))
    p = (logits[0].double() / tau).softmax(-1)
    # Of independent draws; these vary less.
    error = (p * (1 - p) / (4000 * draws)).sqrt()
    assert bool(((shares - p).abs() <= 5 * error).all())


@pytest.mark.parametrize("tau", TAUS)
def test_the_kl_from_draws_and_its_gradient_have_the_expectation_of_the_whole(tau: float) -> None:
    generator = torch.Generator().manual_seed(1)
    teacher = 2 * torch.randn(1, OUTCOMES, generator=generator)
    student = torch.randn(1, OUTCOMES, generator=generator, requires_grad=True)
    exact = KL(tau)(student, teacher, CONTEXT)
    (slope,) = torch.autograd.grad(exact.sum(), student)
    many = student.detach().expand(4000, -1).clone().requires_grad_()
    target = packed(teacher.expand(4000, -1), keeping(8))
    values = SampledKL(draws=8, tau=tau, temperatures=TAUS)(many, target, CONTEXT)
    (slopes,) = torch.autograd.grad(values.sum(), many)
    assert near(values.detach()[:, None], exact.detach())
    assert near(slopes, slope[0])
    # The test can tell: against the 8 largest, renormalised, the mean is another.
    top = teacher.topk(8)
    few = (top.values / tau).log_softmax(-1)
    logs = (student.detach() / tau).log_softmax(-1).gather(-1, top.indices)
    renormalised = tau**2 * (few.exp() * (few - logs)).sum(-1)
    assert not near(values.detach()[:, None], renormalised)


def test_what_is_drawn_depends_on_the_row_alone() -> None:
    logits, keep = torch.randn(5, OUTCOMES), keeping(6)
    names, answers = keys(3), [2, 1, 2]
    whole = drawn(logits, keep, names, answers)
    apart = [
        drawn(part, keep, [name], [count])
        for part, name, count in zip(logits.split(answers), names, answers, strict=True)
    ]
    for what, tensor in whole.items():
        assert tensor.equal(torch.cat([one[what] for one in apart])), what
    again = drawn(logits, keep, names[::-1], answers)
    assert not again["sampled.ids"].equal(whole["sampled.ids"])


def test_what_cannot_happen_is_never_drawn_and_high_ids_fit_in_two_bytes() -> None:
    logits = torch.full((50, 60_000), float("-inf"))
    possible = torch.tensor([7, 40_000, 59_999])
    logits[:, possible] = torch.tensor([0.0, 1.0, 2.0])
    keep = keeping(32, outcomes=60_000)
    found = drawn(logits, keep, keys(50), [1] * 50)
    assert found["sampled.ids"].dtype == torch.int16
    ids = found["sampled.ids"].int() & 0xFFFF
    assert set(ids.flatten().tolist()) == set(possible.tolist())
    assert bool(found["sampled.entropy"].isfinite().all())
    assert keep.bytes == (32 * 2 + 4) * len(TAUS)
