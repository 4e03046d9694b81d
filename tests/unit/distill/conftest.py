"""Captures made by hand: random tensors that stand for one forward pass of two models."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from toolchain.distill.capture import Captures
from toolchain.distill.compose import compose
from toolchain.distill.context import Context, Decoder, Moment
from toolchain.distill.distiller import Distiller
from toolchain.distill.extract import Request
from toolchain.distill.seen import Seen
from toolchain.distill.term import BoundTerm, bind
from toolchain.spec import ModelSpec

TEACHER = ModelSpec(
    family="bert", layers=4, width=24, heads=2, ffn=48, vocab=50, max_tokens=32, num_labels=3
)
STUDENT = TEACHER.reshaped(layers=2)


@dataclass
class Side:
    """All tensors of one side that any term may ask for."""

    spec: ModelSpec
    tensors: dict[Request, Tensor]

    def captures(self) -> Captures:
        return Captures(self.tensors, self.spec.heads, decoder=decoder_of(self.spec))


def decoder_of(spec: ModelSpec, dtype: torch.dtype = torch.float64) -> Decoder:
    """The last layer of a head; models of one width and one number of outcomes have the same."""
    g = torch.Generator().manual_seed(spec.width)
    weight = torch.randn(spec.num_labels, spec.width, generator=g, dtype=torch.float64)
    bias = torch.randn(spec.num_labels, generator=g, dtype=torch.float64)
    return Decoder((weight / spec.width**0.5).to(dtype), bias.to(dtype))


def make_side(spec: ModelSpec, rows: int, tokens: int, seed: int, *, grad: bool = False) -> Side:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        tensor = torch.randn(*shape, generator=g, dtype=torch.float64)
        return tensor.requires_grad_(grad)

    tensors = {Request("logits"): draw(rows, spec.num_labels)}
    for number in (0, 1):
        # Extra heads that agree with the model's own.
        own = tensors[Request("logits")].detach().clone()
        tensors[Request("head", number)] = own.requires_grad_(grad)
    tensors[Request("pooled")] = draw(rows, spec.width)
    tensors[Request("states")] = draw(rows, spec.width)
    tensors[Request("emb")] = draw(rows, tokens, spec.width)
    for layer in range(1, spec.layers + 1):
        for kind in ("hidden", "q", "k", "v"):
            tensors[Request(kind, layer)] = draw(rows, tokens, spec.width)
    return Side(spec, tensors)


def bound_terms(method: str, student: ModelSpec = STUDENT, teacher: ModelSpec = TEACHER):
    stages = compose(method, {}).stages
    return {name: tuple(bind(t, student, teacher) for t in terms) for name, terms in stages.items()}


@dataclass(frozen=True)
class Loss:
    """The weighted sum and the terms' values before weight and schedule."""

    total: Tensor
    parts: dict[str, Tensor]


def context_of(mask: Tensor, labels: Tensor, moment: Moment | None = None) -> Context:
    return Context(mask_BN=mask, labels_P=labels, moment=moment or Moment(step=1, steps=2))


def denominators_of(terms: tuple[BoundTerm, ...], mask: Tensor) -> dict[str, float]:
    context = Context(mask_BN=mask)
    return {b.name: b.term.reduction.denominator(context) for b in terms}


def loss_of(
    terms: tuple[BoundTerm, ...],
    student: Side,
    teacher: Side,
    mask: Tensor,
    labels: Tensor,
    *,
    distiller: Distiller | None = None,
    denominators: dict[str, float] | None = None,
    moment: Moment | None = None,
) -> Loss:
    distiller = distiller or Distiller(terms).double()
    context = context_of(mask, labels, moment)
    seen = Seen(student.captures(), (teacher.captures(),), context)
    views = {"plain": seen, **{b.term.view: seen for b in terms}}
    values = distiller(views, denominators or denominators_of(terms, mask))
    return Loss(distiller.total(values, context.moment), values)


@pytest.fixture
def mask() -> Tensor:
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:] = 0
    mask[2, 2:] = 0
    return mask


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 2, 1])
