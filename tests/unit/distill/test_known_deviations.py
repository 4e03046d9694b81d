"""GLMKD's two formulas that are known to deviate, restated, and that ours differ from them.

Its modules need apex and process groups; what they compute is short. The MiniLM loss hands
probabilities to a helper that takes a softmax of its own; losses at masked positions are taken of
logits multiplied by the mask, so that masked rows enter as zeros.
"""

import math

import pytest
import torch
from torch import Tensor

from toolchain.distill import objectives, reduction
from toolchain.distill.context import Context

g = torch.Generator().manual_seed(29)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)), written out."""
    p, q = teacher.softmax(-1), student.softmax(-1)
    return (p * (p / q).log()).sum(-1)


def attention(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Our attention term: mean over heads and queries of the KL of maps."""
    context = Context(mask_BN=mask)
    around = Context(mask_BN=mask, outcomes=context.keys_B1NN)
    values = objectives.KL()(student, teacher, around)
    mean = reduction.mean_query
    return mean.numerators(values, context).sum() / mean.denominator(context)


@pytest.mark.parametrize(("tokens", "shrinks"), [(20, 184.0), (128, 2.5e3), (512, 1.5e4)])
def test_a_second_softmax_shrinks_the_attention_loss_by_the_stated_orders(
    tokens: int, shrinks: float
) -> None:
    student, teacher = 3 * draw(2, 2, tokens, tokens), 3 * draw(2, 2, tokens, tokens)
    doubled = kl(student.softmax(-1), teacher.softmax(-1)).mean()
    ours = attention(student, teacher, torch.ones(2, tokens, dtype=torch.long))
    torch.testing.assert_close(ours, kl(student, teacher).mean())
    assert float(ours / doubled) == pytest.approx(shrinks, rel=0.25)


def test_ours_has_no_second_softmax_under_padding_either() -> None:
    student, teacher = 3 * draw(2, 2, 20, 20), 3 * draw(2, 2, 20, 20)
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[1, 12:] = 0
    ours = attention(student, teacher, mask)
    rows = [kl(student[0], teacher[0]).flatten()]
    rows.append(kl(student[1, :, :12, :12], teacher[1, :, :12, :12]).flatten())
    torch.testing.assert_close(ours, torch.cat(rows).mean())


VOCAB = 11


def rows_of(mask: Tensor) -> tuple[Tensor, Tensor]:
    return draw(*mask.shape, VOCAB), draw(*mask.shape, VOCAB)


def ours_over(objective: objectives.Objective, s: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    """Our mean: the supervised rows alone."""
    keep = mask.bool()
    context = Context(mask_BN=mask, sample_P=keep.nonzero()[:, 0])
    values = objective(s[keep], t[keep], context)
    mean = reduction.mean_logits
    return mean.numerators(values, context).sum() / mean.denominator(context)


def test_multiplied_masks_scale_a_kl_by_the_part_of_valid_tokens(mask: Tensor) -> None:
    student, teacher = rows_of(mask)
    m = mask.unsqueeze(-1)
    theirs = kl(student * m, teacher * m).mean()
    ours = ours_over(objectives.KL(), student, teacher, mask)
    valid = float(mask.double().mean())
    assert valid < 0.7
    assert float(theirs / ours) == pytest.approx(valid)


def test_multiplied_masks_add_a_constant_to_a_cross_entropy(mask: Tensor) -> None:
    student, teacher = rows_of(mask)
    m = mask.unsqueeze(-1)
    p, log_q = (teacher * m).softmax(-1), (student * m).log_softmax(-1)
    theirs = -(p * log_q).sum(-1).mean()
    ours = ours_over(objectives.SoftCrossEntropy(), student, teacher, mask)
    valid = float(mask.double().mean())
    assert float(theirs) == pytest.approx(valid * float(ours) + (1 - valid) * math.log(VOCAB))
    assert abs(float(theirs - ours)) > 0.01
