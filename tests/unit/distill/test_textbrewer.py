"""TextBrewer's loss functions on the same tensors: equal where both mean the same, else not.

Ours go through bound terms and the distiller, as in training: extraction, transforms, objective,
masked reduction.
"""

import math

import pytest
import torch
from torch import Tensor

from tests.unit.distill.conftest import STUDENT, TEACHER, Side, loss_of, make_side
from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.capture import Captures
from toolchain.distill.extract import Request, attn_scores
from toolchain.distill.term import Term, bind
from toolchain.spec import ModelSpec

losses = pytest.importorskip(
    "textbrewer.losses", reason="textbrewer is not installed: pip install 'toolchain[dev]'"
)

# One block, so that every term compares one pair of layers: 1 with the teacher's 4.
ONE = STUDENT.reshaped(layers=1)
FULL = torch.ones(3, 7, dtype=torch.long)
SMALL = ONE.reshaped(width=16)


def sides(student: ModelSpec = ONE, *, grad: bool = False) -> tuple[Side, Side]:
    return make_side(student, 3, 7, seed=5, grad=grad), make_side(TEACHER, 3, 7, seed=6)


def ours(term: Term, student: Side, teacher: Side, mask: Tensor, labels: Tensor) -> Tensor:
    bound = bind(term, student.spec, teacher.spec)
    return loss_of((bound,), student, teacher, mask, labels).total


def states(student: Side, teacher: Side) -> tuple[Tensor, Tensor]:
    """Outputs of the blocks that the terms match, (B, N, D)."""
    return student.tensors[Request("hidden", 1)], teacher.tensors[Request("hidden", 4)]


def scores(student: Side, teacher: Side) -> tuple[Tensor, Tensor]:
    """Attention scores of the blocks that the terms match, (B, H, N, N)."""
    pairs = ((student, 1), (teacher, 4))
    s, t = (Captures(s.tensors, s.spec.heads).get(attn_scores, layer) for s, layer in pairs)
    return s, t


def entropy(teacher: Tensor, tau: float) -> Tensor:
    p = (teacher / tau).softmax(-1)
    return -(p * p.log()).sum(-1).mean()


@pytest.mark.parametrize("tau", [1.0, 4.0, 10.0])
def test_kd_ce_is_our_kl_without_tau_squared_plus_the_entropy(
    tau: float, mask: Tensor, labels: Tensor
) -> None:
    student, teacher = sides(grad=True)
    z_S, z_T = (side.tensors[Request("logits")] for side in (student, teacher))
    term = Term("soft", extract.logits, objectives.KL(tau), reduction.mean_logits)
    mine = ours(term, student, teacher, mask, labels)
    theirs = losses.kd_ce_loss(z_S, z_T, temperature=tau)
    torch.testing.assert_close(mine, tau**2 * (theirs - entropy(z_T, tau)), rtol=1e-9, atol=1e-11)
    (my_gradient,) = torch.autograd.grad(mine, z_S)
    (their_gradient,) = torch.autograd.grad(theirs, z_S)
    torch.testing.assert_close(my_gradient, tau**2 * their_gradient, rtol=1e-9, atol=1e-11)
    if tau > 1:
        assert not torch.allclose(my_gradient, their_gradient, rtol=0.5)


def test_kd_ce_is_our_soft_cross_entropy_at_tau_one(mask: Tensor, labels: Tensor) -> None:
    student, teacher = sides()
    z_S, z_T = (side.tensors[Request("logits")] for side in (student, teacher))
    term = Term("soft", extract.logits, objectives.SoftCrossEntropy(), reduction.mean_logits)
    torch.testing.assert_close(
        ours(term, student, teacher, mask, labels), losses.kd_ce_loss(z_S, z_T)
    )


def test_without_tau_squared_the_soft_gradient_fades(mask: Tensor, labels: Tensor) -> None:
    """The gradient of ours keeps its size with tau, theirs shrinks like 1 / tau^2."""
    sizes = []
    for tau in (10.0, 100.0):
        student, teacher = sides(grad=True)
        z_S, z_T = (side.tensors[Request("logits")] for side in (student, teacher))
        term = Term("soft", extract.logits, objectives.KL(tau), reduction.mean_logits)
        (mine,) = torch.autograd.grad(ours(term, student, teacher, mask, labels), z_S)
        (theirs,) = torch.autograd.grad(losses.kd_ce_loss(z_S, z_T, temperature=tau), z_S)
        sizes.append((float(mine.norm()), float(theirs.norm())))
    (mine_10, theirs_10), (mine_100, theirs_100) = sizes
    assert mine_100 / mine_10 == pytest.approx(1.0, rel=0.1)
    assert theirs_100 / theirs_10 == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_kd_mse_is_our_mse_over_tau_squared(tau: float, mask: Tensor, labels: Tensor) -> None:
    student, teacher = sides()
    z_S, z_T = (side.tensors[Request("logits")] for side in (student, teacher))
    term = Term("mse", extract.logits, objectives.MSE(), reduction.mean_feat_mean_logits)
    mine = ours(term, student, teacher, mask, labels)
    torch.testing.assert_close(mine, tau**2 * losses.kd_mse_loss(z_S, z_T, temperature=tau))


def test_hidden_mse_agrees_under_a_mask(mask: Tensor, labels: Tensor) -> None:
    student, teacher = sides()
    mse, mean = objectives.MSE(), reduction.mean_feat_mean_tok
    term = Term("hidden", extract.hidden, mse, mean, matching.Last())
    theirs = losses.hid_mse_loss(*states(student, teacher), mask)
    torch.testing.assert_close(ours(term, student, teacher, mask, labels), theirs)
    unmasked = losses.hid_mse_loss(*states(student, teacher))
    torch.testing.assert_close(ours(term, student, teacher, FULL, labels), unmasked)
    assert not torch.isclose(unmasked, theirs, rtol=1e-3)


ATTENTION = Term(
    "attention", extract.attn_scores, objectives.MSE(), reduction.mean_pair, matching.Last()
)


def test_attention_mse_agrees_under_a_mask(mask: Tensor, labels: Tensor) -> None:
    student, teacher = sides()
    theirs = losses.att_mse_loss(*scores(student, teacher), mask)
    torch.testing.assert_close(ours(ATTENTION, student, teacher, mask, labels), theirs)


def test_attention_mse_without_a_mask_disagrees_where_scores_are_negative(labels: Tensor) -> None:
    """Theirs takes every score up to -1e-3 for a masked one and sets it to zero."""
    student, teacher = sides()
    s, t = scores(student, teacher)
    assert (s < -1e-3).any()
    mine = ours(ATTENTION, student, teacher, FULL, labels)
    theirs = losses.att_mse_loss(s, t)
    assert not torch.isclose(mine, theirs, rtol=1e-2)
    # With the mask of a batch without padding, the very same call agrees.
    torch.testing.assert_close(mine, losses.att_mse_loss(s, t, FULL))
    # And so it does where no score is negative.
    positive = (s.abs(), t.abs())
    torch.testing.assert_close(losses.att_mse_loss(*positive), (s.abs() - t.abs()).square().mean())


def test_attention_cross_entropy_is_our_kl_plus_the_entropy_where_nothing_is_padded(
    mask: Tensor, labels: Tensor
) -> None:
    student, teacher = sides()
    s, t = scores(student, teacher)
    term = Term("maps", extract.attn_scores, objectives.KL(), reduction.mean_query, matching.Last())
    theirs = losses.att_ce_loss(s, t, FULL) - entropy(t, 1.0)
    torch.testing.assert_close(ours(term, student, teacher, FULL, labels), theirs)
    # Theirs keeps padded keys in the softmax: what lies behind the text changes the loss.
    louder = (x.clone() for x in (s, t))
    s_louder, t_louder = (x.index_fill(-1, torch.tensor([6]), 5.0) for x in louder)
    assert not torch.isclose(
        losses.att_ce_loss(s_louder, t_louder, mask), losses.att_ce_loss(s, t, mask), rtol=1e-2
    )


def test_cosine_agrees_under_a_mask(mask: Tensor, labels: Tensor) -> None:
    student, teacher = sides()
    term = Term("cos", extract.hidden, objectives.Cos(), reduction.mean_tok, matching.Last())
    for rows in (mask, FULL):
        theirs = losses.cos_loss(*states(student, teacher), rows)
        torch.testing.assert_close(ours(term, student, teacher, rows, labels), theirs)


def test_pkd_agrees_when_features_are_summed(mask: Tensor, labels: Tensor) -> None:
    student, teacher = sides()
    s, t = states(student, teacher)
    chain = (transforms.Pool("cls"), transforms.L2Norm())
    summed = Term(
        "pkd", extract.hidden, objectives.MSE(), reduction.sum_feat_mean_cls,
        matching.Last(), chain,
    )  # fmt: skip
    mine = ours(summed, student, teacher, mask, labels)
    torch.testing.assert_close(mine, losses.pkd_loss(s, t))
    cosine = torch.cosine_similarity(s[:, 0], t[:, 0], dim=-1)
    torch.testing.assert_close(mine, (2 - 2 * cosine).mean())


STACKED_TOKENS = Term(
    "mmd", extract.hidden, objectives.MSE(), reduction.mean_pair,
    matching.Stack(), (transforms.Gram("token"),),
)  # fmt: skip
STACKED_FEATURES = Term(
    "fsp", extract.hidden, objectives.MSE(), reduction.mean_feat_mean_cls,
    matching.Stack(), (transforms.Gram("feature"),),
)  # fmt: skip


def two_layers(side: Side, last: int) -> list[Tensor]:
    """The embeddings and the matched block: what a stack of one block and the embeddings holds."""
    return [side.tensors[Request("emb")], side.tensors[Request("hidden", last)]]


@pytest.mark.parametrize("student_spec", [ONE, SMALL], ids=["equal_widths", "unequal_widths"])
def test_mmd_agrees_between_any_widths_where_nothing_is_padded(
    student_spec: ModelSpec, labels: Tensor
) -> None:
    student, teacher = sides(student_spec)
    theirs = losses.mmd_loss(two_layers(student, 1), two_layers(teacher, 4))
    torch.testing.assert_close(ours(STACKED_TOKENS, student, teacher, FULL, labels), theirs)


def test_mmd_agrees_under_a_mask_once_both_divide_by_the_same(mask: Tensor, labels: Tensor) -> None:
    """With a mask theirs divides the products by the padded length, ours always by the width."""
    student, teacher = sides()
    theirs = losses.mmd_loss(two_layers(student, 1), two_layers(teacher, 4), mask)
    mine = ours(STACKED_TOKENS, student, teacher, mask, labels)
    length, width = mask.shape[1], TEACHER.width
    torch.testing.assert_close(mine * (width / length) ** 2, theirs)


def test_padding_changes_their_mmd_and_not_ours(mask: Tensor, labels: Tensor) -> None:
    student, teacher = sides()
    before = losses.mmd_loss(two_layers(student, 1), two_layers(teacher, 4), mask)
    mine = ours(STACKED_TOKENS, student, teacher, mask, labels)
    longer = torch.cat([mask, torch.zeros(3, 4, dtype=mask.dtype)], dim=1)
    student, teacher = (padded(side) for side in (student, teacher))
    after = losses.mmd_loss(two_layers(student, 1), two_layers(teacher, 4), longer)
    assert float(after / before) == pytest.approx((7 / 11) ** 2)
    torch.testing.assert_close(ours(STACKED_TOKENS, student, teacher, longer, labels), mine)


def padded(side: Side) -> Side:
    def longer(x: Tensor) -> Tensor:
        return torch.cat([x, x.new_ones(3, 4, x.shape[2])], dim=1) if x.ndim == 3 else x

    return Side(side.spec, {request: longer(x) for request, x in side.tensors.items()})


def test_fsp_agrees_with_and_without_padding(mask: Tensor, labels: Tensor) -> None:
    student, teacher = sides()
    flows = (two_layers(student, 1), two_layers(teacher, 4))
    for rows, given in ((mask, mask), (FULL, FULL), (FULL, None)):
        mine = ours(STACKED_FEATURES, student, teacher, rows, labels)
        torch.testing.assert_close(mine, losses.fsp_loss(*flows, given))


def test_tensors_that_would_agree_by_chance_are_not_what_is_compared(
    mask: Tensor, labels: Tensor
) -> None:
    """Guards the tests above: other tensors give other values, on both sides."""
    student, teacher = sides()
    other = make_side(TEACHER, 3, 7, seed=7)
    pairs = [
        (ATTENTION, lambda t: losses.att_mse_loss(*scores(student, t), mask)),
        (
            STACKED_FEATURES,
            lambda t: losses.fsp_loss(two_layers(student, 1), two_layers(t, 4), mask),
        ),
    ]
    for term, theirs in pairs:
        mine = ours(term, student, teacher, mask, labels)
        assert math.isfinite(float(mine))
        assert not torch.isclose(mine, ours(term, student, other, mask, labels), rtol=1e-3)
        assert not torch.isclose(theirs(teacher), theirs(other), rtol=1e-3)
