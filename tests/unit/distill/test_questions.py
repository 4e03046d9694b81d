"""Rows of logits whose outcomes are a text's tokens: what methods do with them, and padding."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForQuestionAnswering

from tests.unit.distill.conftest import STUDENT, TEACHER, Side
from toolchain.data.batching import Batch
from toolchain.distill.capture import Captures
from toolchain.distill.compose import compose
from toolchain.distill.context import Context, Moment
from toolchain.distill.distiller import Distiller
from toolchain.distill.extract import Request, logits
from toolchain.distill.positions import positions_of
from toolchain.distill.reduction import mean_feat_mean_logits
from toolchain.distill.seen import Seen
from toolchain.distill.shapes import Unfit
from toolchain.distill.term import BoundTerm, bind, find_method, methods
from toolchain.errors import UsageError
from toolchain.models.outputs import logits_of
from toolchain.spec import ModelSpec

QA_TEACHER = replace(TEACHER, task="qa", num_labels=0)
QA_STUDENT = replace(STUDENT, task="qa", num_labels=0)

REFUSED = {
    "dist": "correlations along as many keys or tokens",
    "distillm": "samples text from the student",
    "dskd": "does not read one state per answer",
    "embeddings": "pools nothing",
    "gkd_onpolicy": "samples text from the student",
    "minillm": "samples text from the student",
    "logit_std": "zscore needs equally many outcomes in every row",
    "rl_kd": "as many as its text has tokens",
    "seqkd": "the teacher writes answers",
    "similarities": "pools nothing",
    "ted": "answers once per sequence",
    "topk_kd": "no largest outcomes in common",
    "uncertainty": "other numbers of outcomes",
    "universal_kd": "answers once per sequence",
}
"""Methods that mean nothing here, with a part of the reason that is given."""


def bound(method: str) -> tuple[BoundTerm, ...]:
    """Every term of a method's stages for the task, bound; what it has beside terms is checked."""
    # Blocks are compared one to one there.
    student: ModelSpec = QA_TEACHER if method == "mobilebert" else QA_STUDENT
    made = compose(method, {})
    for part in (*made.operators, *((made.surgery,) if made.surgery else ())):
        part.check(student, QA_TEACHER)
    if made.aggregation:
        made.aggregation.resolve(student, [QA_TEACHER] * 2)
    return tuple(
        bind(term, student, QA_TEACHER)
        for stage, terms in made.stages.items()
        for term in terms
        if stage != "general"
    )


def made(rows: int, tokens: int, seed: int, *, grad: bool = False) -> Side:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_(grad)

    tensors = {
        Request("logits"): draw(2 * rows, tokens),
        Request("head", 0): draw(2 * rows, tokens),
    }
    tensors[Request("head", 1)] = draw(2 * rows, tokens)
    tensors[Request("emb")] = draw(rows, tokens, TEACHER.width)
    for layer in range(1, TEACHER.layers + 1):
        for kind in ("hidden", "q", "k", "v"):
            tensors[Request(kind, layer)] = draw(rows, tokens, TEACHER.width)
    return Side(QA_TEACHER, tensors)


def longer(side: Side, extra: int) -> Side:
    """The same tensors with garbage after the last token."""
    axes = {
        request: tensor.ndim - 2 + (tensor.ndim == 2) for request, tensor in side.tensors.items()
    }
    return Side(
        side.spec,
        {
            request: torch.cat(
                [tensor, torch.full_like(tensor.narrow(axes[request], 0, extra), 9.0)],
                dim=axes[request],
            )
            for request, tensor in side.tensors.items()
        },
    )


def loss(
    terms: tuple[BoundTerm, ...], student: Side, teacher: Side, mask: Tensor, ends: Tensor,
    distiller: Distiller,
) -> Tensor:  # fmt: skip
    rows = positions_of("qa", ends)
    context = Context(
        mask_BN=mask,
        labels_P=rows.labels_P,
        sample_P=rows.sample_P,
        moment=Moment(step=1, steps=2),
        places_PN=mask.bool().repeat_interleave(2, 0),
    )
    sides = [Captures(side.tensors, side.spec.heads) for side in (student, teacher)]
    seen = Seen(sides[0], (sides[1],), context)
    counts = {b.name: b.term.reduction.denominator(context) for b in terms}
    values = distiller({"plain": seen, **{b.term.view: seen for b in terms}}, counts)
    return distiller.total(values, context.moment)


@pytest.fixture
def ends() -> Tensor:
    return torch.tensor([[1, 4], [0, 0], [1, 1]])


KEPT = [name for name in methods.names() if name not in REFUSED]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_means_nothing_is_refused_by_name(name: str) -> None:
    with pytest.raises((UsageError, Unfit)) as raised:
        bound(name)
    assert REFUSED[name] in str(raised.value)


@pytest.mark.parametrize("name", KEPT)
def test_padding_neither_changes_the_loss_nor_gets_a_gradient(
    name: str, mask: Tensor, ends: Tensor
) -> None:
    terms = bound(name)
    student, teacher = made(3, 7, 1, grad=True), made(3, 7, 2)
    distiller = Distiller(terms).double()
    plain = loss(terms, student, teacher, mask, ends, distiller)
    padded = torch.cat([mask, torch.zeros(3, 4, dtype=mask.dtype)], dim=1)
    more = loss(terms, longer(student, 4), longer(teacher, 4), padded, ends, distiller)
    torch.testing.assert_close(more, plain, rtol=1e-10, atol=1e-12)
    plain.backward()
    answers = student.tensors[Request("logits")].grad
    if answers is not None:
        assert answers[~mask.bool().repeat_interleave(2, 0)].abs().max() == 0
        assert answers.abs().max() > 0


@pytest.mark.parametrize("name", KEPT)
def test_single_rows_add_up_to_the_batch(name: str, mask: Tensor, ends: Tensor) -> None:
    terms = tuple(b for b in bound(name) if b.term.extract.kind in ("logits", "labels"))
    if not terms:
        pytest.skip("it compares no predictions")
    student, teacher = made(3, 7, 1), made(3, 7, 2)
    distiller = Distiller(terms).double()
    whole = loss(terms, student, teacher, mask, ends, distiller)

    def alone(side: Side, row: int) -> Side:
        n = int(mask[row].sum())
        found = side.tensors[Request("logits")][2 * row : 2 * row + 2, :n]
        return Side(side.spec, {Request("logits"): found})

    parts = [
        loss(terms, alone(student, b), alone(teacher, b), mask[b : b + 1, : int(mask[b].sum())],
             ends[b : b + 1], distiller)
        for b in range(3)
    ]  # fmt: skip
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-10, atol=1e-12)


def test_gold_ends_are_learned_as_transformers_does_where_nothing_is_padded(ends: Tensor) -> None:
    torch.manual_seed(0)
    model = BertForQuestionAnswering(
        BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                   intermediate_size=8)
    ).eval()  # fmt: skip
    ids = torch.randint(0, 20, (3, 7))
    output = model(ids, start_positions=ends[:, 0], end_positions=ends[:, 1])
    ends_BN2 = logits_of(output)
    assert torch.equal(ends_BN2[..., 1], output.end_logits)
    rows = positions_of("qa", ends)
    assert rows.sample_P.tolist() == [0, 0, 1, 1, 2, 2]
    student = Side(QA_STUDENT, {Request("logits"): rows.rows(ends_BN2)})
    terms = bound("finetune")
    found = loss(terms, student, student, torch.ones_like(ids), ends, Distiller(terms))
    torch.testing.assert_close(found, output.loss)


def test_a_mean_over_outcomes_counts_real_tokens_alone(mask: Tensor) -> None:
    values = torch.ones(6, 7).masked_fill(~mask.bool().repeat_interleave(2, 0), 0)
    context = Context(mask_BN=mask, outcomes=mask.bool().repeat_interleave(2, 0))
    assert mean_feat_mean_logits.numerators(values, context).tolist() == [1.0] * 6


def test_texts_without_labels_have_rows_that_nobody_reads() -> None:
    batch = Batch({"attention_mask": torch.ones(2, 5)}, torch.zeros(2, dtype=torch.long), (0, 1))
    rows = positions_of("qa", batch.labels)
    assert rows.labels_P.tolist() == [0, 0, 0, 0]
    assert rows.rows(torch.randn(2, 5, 2)).shape == (4, 5)


def test_every_method_is_looked_at_here() -> None:
    assert set(REFUSED) <= set(methods.names())
    assert all(find_method(name) for name in KEPT)
    assert logits.shape(QA_STUDENT).elements(3, 7) == 3 * 2 * 7
