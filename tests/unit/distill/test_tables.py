"""Gradients of a table's rows: AdamW, clipping and shares give what a dense gradient gives."""

import copy

import pytest
import torch
from torch import Tensor, nn

from toolchain.distill.optimizer import clip, optimizer_of
from toolchain.distill.shares import gradient_shares
from toolchain.distill.tables import row_gradients

ROWS, WIDTH = 5000, 8


class Words(nn.Module):
    """A table, a linear layer, a small table."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(ROWS, WIDTH, padding_idx=0)
        self.places = nn.Embedding(16, WIDTH)
        self.head = nn.Linear(WIDTH, ROWS if tied else 3)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])
        out: Tensor = self.head(torch.tanh(self.words(ids) + self.places(places)))
        return out.square().mean()


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    # Few words, so that rows repeat within a batch and rest in others; 0 is padding.
    return [torch.randint(0, 40, (4, 6), generator=generator) for _ in range(12)]


def trained(model: Words, *, rows: bool, stop: int | None = None) -> dict[str, Tensor]:
    """Train in place; with `stop` a new optimiser goes on from the state of the old one there."""
    optimizer = optimizer_of({"student": model}, 1e-2, 0.1)
    with row_gradients(model) if rows else torch.enable_grad():
        for number, ids in enumerate(batches()):
            if number == stop:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = optimizer_of({"student": model}, 1e-2, 0.1)
                optimizer.load_state_dict(state)
            (1e-2 * number * model(ids)).backward()
            assert model.words.weight.grad is not None
            assert model.words.weight.grad.is_sparse == rows
            assert model.places.weight.grad is not None
            assert not model.places.weight.grad.is_sparse
            clip(list(model.parameters()), 1e9)
            optimizer.step()
            optimizer.zero_grad()
    moments = optimizer.state_dict()["state"]
    found = {f"{i}.{key}": value for i, own in moments.items() for key, value in own.items()}
    return found | dict(model.named_parameters())


@pytest.mark.parametrize("stop", [None, 5])
def test_weights_and_moments_are_those_of_dense_gradients_to_the_bit(stop: int | None) -> None:
    torch.manual_seed(0)
    model = Words()
    dense = trained(copy.deepcopy(model), rows=False)
    few = trained(model, rows=True, stop=stop)
    assert dense.keys() == few.keys()
    assert all(torch.equal(few[name], dense[name]) for name in dense)
    assert not model.words.sparse


def test_clipping_and_shares_read_rows_as_they_read_tables() -> None:
    torch.manual_seed(0)
    model = Words()
    (ids, other, *_) = batches()
    found = []
    for rows in (False, True):
        own = copy.deepcopy(model)
        with row_gradients(own) if rows else torch.enable_grad():
            terms = {"a": own(ids), "b": 3 * own(other)}
            shares = gradient_shares(terms, list(own.parameters()))
            (1e3 * (terms["a"] + terms["b"])).backward()
            clip(list(own.parameters()), 0.5)
        slope = own.words.weight.grad
        assert slope is not None
        found.append((slope.to_dense() if rows else slope, own.head.weight.grad, shares["a"]))
    torch.testing.assert_close(found[1], found[0])
    assert found[0][0].norm() > 0.01


def test_a_table_that_is_also_the_head_keeps_its_dense_gradient() -> None:
    model = Words(tied=True)
    with row_gradients(model):
        model(batches()[0]).backward()
    assert model.words.weight.grad is not None
    assert not model.words.weight.grad.is_sparse
